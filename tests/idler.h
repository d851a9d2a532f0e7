// For the tests of audit/: processes that may be stopped.
#pragma once

#include <array>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <iterator>
#include <string>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

#include "audit/stall.h"

namespace nova::tests {

// As /proc says: 'T' is one that stands still. '\0': there is none.
inline char StateOf(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  const std::string text(std::istreambuf_iterator<char>(file), {});
  const std::size_t name_end = text.rfind(')');
  return name_end == std::string::npos ? '\0' : text[name_end + 2];
}

// A process with `children` of its own, all of which do nothing until they are killed.
class Idler {
 public:
  explicit Idler(int children = 0) {
    std::array<int, 2> ready{};
    EXPECT_EQ(::pipe(ready.data()), 0);
    pid_ = ::fork();
    if (pid_ == 0) {
      for (int i = 0; i < children; ++i) {
        const pid_t child = ::fork();
        if (child == 0) {
          ::close(ready[1]);
          ::prctl(PR_SET_PDEATHSIG, SIGKILL);
          for (;;) ::pause();
        }
        (void)!::write(ready[1], &child, sizeof child);
      }
      ::close(ready[1]);
      for (;;) ::pause();
    }
    ::close(ready[1]);
    pid_t child = 0;
    while (::read(ready[0], &child, sizeof child) == sizeof child) children_.push_back(child);
    ::close(ready[0]);
  }
  ~Idler() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  Idler(const Idler&) = delete;
  Idler& operator=(const Idler&) = delete;

  audit::ProcessTarget target(const std::string& name = "idler") const {
    return {.name = name, .pid = pid_, .folder = std::filesystem::current_path()};
  }
  pid_t pid() const { return pid_; }
  const std::vector<pid_t>& children() const { return children_; }

 private:
  pid_t pid_ = -1;
  std::vector<pid_t> children_;
};

}  // namespace nova::tests
