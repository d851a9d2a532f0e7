#include "tests/fixture.h"

#include <cstdio>
#include <cstdlib>
#include <stdlib.h>
#include <string>

namespace nova::tests {
namespace {

namespace fs = std::filesystem;

void RemoveAbandoned(const fs::path& parent, std::string_view prefix) {
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(parent, error)) {
    if (!entry.path().filename().string().starts_with(prefix)) continue;
    if (!fs::exists(entry.path() / "lock", error)) continue;
    // Held by its process as long as that lives.
    auto lock = local::FileLock::TryAcquire(entry.path() / "lock");
    if (lock) fs::remove_all(entry.path(), error);
  }
}

}  // namespace

void Die(const Error& error) {
  std::fprintf(stderr, "a server of the test: %s\n", error.ToString().c_str());
  std::fflush(stderr);
  std::_Exit(1);
}

FixtureFolder::FixtureFolder(std::string_view prefix) {
  const fs::path parent = fs::temp_directory_path();
  RemoveAbandoned(parent, prefix);
  std::string folder = (parent / prefix).string() + "XXXXXX";
  if (::mkdtemp(folder.data()) == nullptr) Die(Internal("mkdtemp failed for " + folder));
  path_ = folder;
  lock_ = Must(local::FileLock::TryAcquire(path_ / "lock"));
  // The accounts that run the servers must get in.
  Must(local::MakeDirectory(path_, 0711));
}

FixtureFolder::~FixtureFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

}  // namespace nova::tests
