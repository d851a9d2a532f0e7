#include "bench/server_process.h"

#include <array>
#include <cstdio>
#include <fcntl.h>
#include <sched.h>
#include <stdexcept>
#include <sys/wait.h>
#include <unistd.h>

namespace nova::bench {

ServerProcess::ServerProcess(const std::vector<std::string>& args, std::optional<int> core) {
  std::array<int, 2> to_child{};
  std::array<int, 2> from_child{};
  if (pipe2(to_child.data(), O_CLOEXEC) != 0 || pipe2(from_child.data(), O_CLOEXEC) != 0)
    throw std::runtime_error("pipe");
  // Made before the fork, after which the child may call next to nothing.
  std::string name = "server";
  std::vector<char*> argv = {name.data()};
  for (const std::string& arg : args) argv.push_back(const_cast<char*>(arg.c_str()));
  argv.push_back(nullptr);
  cpu_set_t cores;
  CPU_ZERO(&cores);
  if (core) CPU_SET(*core, &cores);
  pid_ = fork();
  if (pid_ == 0) {
    if (core && sched_setaffinity(0, sizeof cores, &cores) != 0) _exit(126);
    dup2(to_child[0], STDIN_FILENO);
    dup2(from_child[1], STDOUT_FILENO);
    execv("/proc/self/exe", argv.data());
    _exit(127);
  }
  close(to_child[0]);
  close(from_child[1]);
  stdin_ = to_child[1];
  std::FILE* const out = fdopen(from_child[0], "r");
  const bool up = std::fscanf(out, "%d", &port_) == 1;
  std::fclose(out);
  if (!up) throw std::runtime_error("the server did not start: " + (args.empty() ? "" : args.back()));
  clock_getcpuclockid(pid_, &cpu_clock_);
}

ServerProcess::~ServerProcess() {
  close(stdin_);
  waitpid(pid_, nullptr, 0);
}

Seconds ServerProcess::Cpu() const {
  timespec now{};
  clock_gettime(cpu_clock_, &now);
  return Seconds(static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9);
}

void ServeUntilStdinEnds(int port) {
  std::printf("%d\n", port);
  std::fflush(stdout);
  for (char byte = 0; read(STDIN_FILENO, &byte, 1) > 0;) {
  }
}

}  // namespace nova::bench
