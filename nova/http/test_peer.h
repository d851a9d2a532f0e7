// For the tests of this folder: the other end of a connection, blocking and without any HTTP of its own, so that it can
// misbehave.
#pragma once

#include <arpa/inet.h>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <string>
#include <string_view>
#include <sys/socket.h>
#include <unistd.h>
#include <utility>

namespace nova::http {

// No test waits longer than this for its peer.
inline constexpr std::chrono::seconds kPeerLimit{20};

class Peer {
 public:
  explicit Peer(int socket) : socket_(socket) {
    const timeval limit{.tv_sec = kPeerLimit.count(), .tv_usec = 0};
    ::setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    ::setsockopt(socket_, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  }
  ~Peer() { Close(); }
  Peer(Peer&& other) noexcept : socket_(std::exchange(other.socket_, -1)), received_(std::move(other.received_)) {}
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;

  static Peer Connect(int port) {
    const int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(socket, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    return Peer(socket);
  }

  void Close() {
    if (socket_ >= 0) ::close(std::exchange(socket_, -1));
  }

  // False if the connection is gone.
  bool Send(std::string_view text) {
    while (!text.empty()) {
      const ssize_t sent = ::send(socket_, text.data(), text.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      text.remove_prefix(static_cast<std::size_t>(sent));
    }
    return true;
  }

  // One message with a Content-Length (none: no body), header included; empty if the connection ended before.
  std::string ReadMessage(bool with_body = true) {
    std::size_t head_end = std::string::npos;
    while ((head_end = received_.find("\r\n\r\n")) == std::string::npos) {
      if (!ReadMore()) return {};
    }
    std::size_t end = head_end + 4;
    if (const std::size_t length = received_.find("Content-Length: "); with_body && length < head_end)
      end += std::stoul(received_.substr(length + 16));
    while (received_.size() < end) {
      if (!ReadMore()) return {};
    }
    std::string message = received_.substr(0, end);
    received_.erase(0, end);
    return message;
  }

  // Everything until the other side closes.
  std::string ReadToEnd() {
    while (ReadMore()) {
    }
    return std::exchange(received_, {});
  }

  // What can be read now, after a wait for it; nothing at the end.
  std::string ReadSome() {
    if (received_.empty()) ReadMore();
    return std::exchange(received_, {});
  }

  // True if something, or the end, can be read within `limit`.
  bool Readable(std::chrono::milliseconds limit) const {
    pollfd wait{.fd = socket_, .events = POLLIN, .revents = 0};
    return ::poll(&wait, 1, static_cast<int>(limit.count())) > 0;
  }

  // True if the other side has closed, in whichever way; waits for it.
  bool AtEnd() { return received_.empty() && !ReadMore(); }

 private:
  bool ReadMore() {
    char buffer[16 * 1024];
    const ssize_t size = ::recv(socket_, buffer, sizeof buffer, 0);
    if (size < 0) EXPECT_NE(errno, EAGAIN) << "the other side neither spoke nor closed";
    if (size <= 0) return false;
    received_.append(buffer, static_cast<std::size_t>(size));
    return true;
  }

  int socket_;
  std::string received_;
};

// A listening socket on a free port.
class PeerListener {
 public:
  PeerListener() : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    EXPECT_EQ(::bind(socket_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(::getsockname(socket_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    EXPECT_EQ(::listen(socket_, 16), 0);
    port_ = ntohs(address.sin_port);
  }
  ~PeerListener() { Close(); }
  PeerListener(const PeerListener&) = delete;
  PeerListener& operator=(const PeerListener&) = delete;

  int port() const { return port_; }
  Peer Accept() { return Peer(::accept(socket_, nullptr, nullptr)); }
  void Close() {
    if (socket_ >= 0) ::close(std::exchange(socket_, -1));
  }

 private:
  int socket_;
  int port_ = 0;
};

}  // namespace nova::http
