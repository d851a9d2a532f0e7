#include "local/ports.h"

#include <arpa/inet.h>
#include <cerrno>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "local/file.h"

namespace nova::local {
namespace {

// 0, or why nobody can listen there.
int ListenError(int port) {
  int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return errno;
  // Connections of an earlier run that linger in TIME_WAIT are no obstacle for the servers, so not for this test.
  int reuse = 1;
  ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof reuse);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int error = 0;
  if (::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 || ::listen(fd, 1) != 0) {
    error = errno;
  }
  ::close(fd);
  return error;
}

}  // namespace

Result<void> CheckPorts(const std::vector<PortUse>& ports, int port_base) {
  for (const PortUse& use : ports) {
    int error = ListenError(use.port);
    if (error == 0) continue;
    if (error == EADDRINUSE) {
      return FailedPrecondition(
          fmt::format("port {} (for {}) is taken: end the program that listens there, or move all ports of nova with "
                      "--port-base (now {})",
                      use.port, use.who, port_base));
    }
    return FailedPrecondition(
        fmt::format("port {} (for {}) cannot be used ({}): move all ports of nova with "
                    "--port-base (now {})",
                    use.port, use.who, ErrnoText(error), port_base));
  }
  return Ok();
}

}  // namespace nova::local
