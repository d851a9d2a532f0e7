// What the fixtures of real servers share: a folder that goes with the process, and an end with a message.
#pragma once

#include <filesystem>
#include <optional>
#include <string_view>
#include <utility>

#include "local/file.h"
#include "nova/base/result.h"

namespace nova::tests {

// Ends the process: no test can go on without its server. No destructors run; the servers end with the process.
[[noreturn]] void Die(const Error& error);

inline void Must(Result<void> result) {
  if (!result) Die(result.error());
}

template <class T>
T Must(Result<T> result) {
  if (!result) Die(result.error());
  return *std::move(result);
}

// A new folder among the temporary ones that every account may pass through. What earlier processes of the same prefix
// left behind when they were killed is removed.
class FixtureFolder {
 public:
  explicit FixtureFolder(std::string_view prefix);
  FixtureFolder(const FixtureFolder&) = delete;
  FixtureFolder& operator=(const FixtureFolder&) = delete;
  ~FixtureFolder();

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  // Says that somebody still needs the folder.
  std::optional<local::FileLock> lock_;
};

}  // namespace nova::tests
