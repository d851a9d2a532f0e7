// A server in a process of its own, so that its CPU can be told from the client's. It is this executable again, with
// other arguments; it prints its port on standard output and ends when its standard input does.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <time.h>
#include <vector>

namespace nova::bench {

using Seconds = std::chrono::duration<double>;

class ServerProcess {
 public:
  // `core`: the only one it runs on. Throws std::runtime_error if it does not come up.
  explicit ServerProcess(const std::vector<std::string>& args, std::optional<int> core = {});
  ~ServerProcess();
  ServerProcess(const ServerProcess&) = delete;
  ServerProcess& operator=(const ServerProcess&) = delete;

  int port() const { return port_; }
  // What it has used so far.
  Seconds Cpu() const;

 private:
  pid_t pid_ = 0;
  int stdin_ = -1;
  int port_ = 0;
  clockid_t cpu_clock_{};
};

// The server's side: prints `port` and returns when standard input ends.
void ServeUntilStdinEnds(int port);

}  // namespace nova::bench
