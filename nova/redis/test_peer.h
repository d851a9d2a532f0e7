// For the tests of this folder: a Redis that does what the test says, so that it can misbehave.
#pragma once

#include <arpa/inet.h>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <gtest/gtest.h>
#include <mutex>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <optional>
#include <string>
#include <string_view>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>
#include <utility>
#include <vector>

namespace nova::redis {

// Shut until it is opened; then everybody passes.
class Gate {
 public:
  void Open() {
    std::lock_guard lock(mutex_);
    open_ = true;
    opened_.notify_all();
  }
  void Pass() {
    std::unique_lock lock(mutex_);
    opened_.wait(lock, [this] { return open_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable opened_;
  bool open_ = false;  // guarded by mutex_
};

inline std::string Bulk(std::string_view text) {
  return "$" + std::to_string(text.size()) + "\r\n" + std::string(text) + "\r\n";
}

// Listens on a free port of 127.0.0.1, with a thread for each connection. PING is answered, everything else is given to
// the handler, in the connection's thread: it returns the bytes to reply with, or nothing to close the connection.
class ScriptedRedis {
 public:
  using Command = std::vector<std::string>;
  using Handler = std::function<std::optional<std::string>(const Command&)>;

  // `write_max`: bytes sent at once.
  explicit ScriptedRedis(Handler handler, std::size_t write_max = SIZE_MAX)
      : handler_(std::move(handler)),
        write_max_(write_max),
        listener_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    EXPECT_EQ(::bind(listener_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    EXPECT_EQ(::listen(listener_, 64), 0);
    port_ = ntohs(address.sin_port);
    acceptor_ = std::thread([this] { Accept(); });
  }
  // Precondition: no handler waits any more.
  ~ScriptedRedis() {
    ::shutdown(listener_, SHUT_RDWR);
    acceptor_.join();
    ::close(listener_);
    for (const int socket : sockets_) ::shutdown(socket, SHUT_RDWR);
    for (std::thread& thread : threads_) thread.join();
    for (const int socket : sockets_) ::close(socket);
  }
  ScriptedRedis(const ScriptedRedis&) = delete;
  ScriptedRedis& operator=(const ScriptedRedis&) = delete;

  int port() const { return port_; }
  int accepted() const {
    std::lock_guard lock(mutex_);
    return static_cast<int>(sockets_.size());
  }
  // Connections that have ended.
  int ended() const {
    std::lock_guard lock(mutex_);
    return ended_;
  }
  // What was received, without PING.
  std::vector<Command> commands() const {
    std::lock_guard lock(mutex_);
    return commands_;
  }
  // Makes every connection wait at its PING, from now on.
  void HoldPing(Gate* gate) {
    std::lock_guard lock(mutex_);
    ping_gate_ = gate;
  }
  // Sends something on every connection, unasked.
  void Say(std::string_view text) {
    std::lock_guard lock(mutex_);
    for (const int socket : sockets_) EXPECT_TRUE(Send(socket, text));
  }

 private:
  void Accept() {
    for (;;) {
      const int socket = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      if (socket < 0) return;
      const int on = 1;
      ::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      std::lock_guard lock(mutex_);
      sockets_.push_back(socket);
      threads_.emplace_back([this, socket] { Serve(socket); });
    }
  }

  void Serve(int socket) {
    std::string received;
    while (const auto command = ReadCommand(socket, received)) {
      std::optional<std::string> reply = "+PONG\r\n";
      if (command->front() == "PING") {
        Gate* gate = nullptr;
        {
          std::lock_guard lock(mutex_);
          gate = ping_gate_;
        }
        if (gate != nullptr) gate->Pass();
      } else {
        {
          std::lock_guard lock(mutex_);
          commands_.push_back(*command);
        }
        reply = handler_(*command);
      }
      if (!reply || !Send(socket, *reply)) break;
    }
    ::shutdown(socket, SHUT_RDWR);
    std::lock_guard lock(mutex_);
    ++ended_;
  }

  bool Send(int socket, std::string_view text) const {
    while (!text.empty()) {
      const ssize_t sent = ::send(socket, text.data(), std::min(text.size(), write_max_), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      text.remove_prefix(static_cast<std::size_t>(sent));
    }
    return true;
  }

  static bool ReadMore(int socket, std::string& received) {
    char buffer[16 * 1024];
    const ssize_t size = ::recv(socket, buffer, sizeof buffer, 0);
    if (size <= 0) return false;
    received.append(buffer, static_cast<std::size_t>(size));
    return true;
  }

  // "*2\r\n" or "$5\r\n": the number.
  static std::optional<std::size_t> ReadNumber(int socket, std::string& received) {
    std::size_t end = std::string::npos;
    while ((end = received.find("\r\n")) == std::string::npos) {
      if (!ReadMore(socket, received)) return std::nullopt;
    }
    const std::size_t number = std::stoul(received.substr(1, end - 1));
    received.erase(0, end + 2);
    return number;
  }

  static std::optional<Command> ReadCommand(int socket, std::string& received) {
    const auto count = ReadNumber(socket, received);
    if (!count) return std::nullopt;
    Command command;
    for (std::size_t i = 0; i < *count; ++i) {
      const auto size = ReadNumber(socket, received);
      if (!size) return std::nullopt;
      while (received.size() < *size + 2) {
        if (!ReadMore(socket, received)) return std::nullopt;
      }
      command.push_back(received.substr(0, *size));
      received.erase(0, *size + 2);
    }
    return command;
  }

  const Handler handler_;
  const std::size_t write_max_;
  int listener_;
  int port_ = 0;
  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::vector<int> sockets_;
  std::vector<std::thread> threads_;
  std::vector<Command> commands_;
  int ended_ = 0;
  Gate* ping_gate_ = nullptr;
  std::thread acceptor_;
};

}  // namespace nova::redis
