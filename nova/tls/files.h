// File operations of this folder: whole files, written so that a reader never sees half of one.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "nova/base/result.h"
#include "nova/tls/authority.h"

namespace nova::tls {

// Reads a regular file of at most `bytes_max`. The error's message is the bare reason, such as "Permission denied".
// Errors: FAILED_PRECONDITION.
Result<std::string> ReadFile(const std::filesystem::path& path, std::size_t bytes_max);

// Creates `path`, which must not exist, with exactly this mode whatever the umask.
// Errors: FAILED_PRECONDITION.
Result<void> WriteNewFile(const std::filesystem::path& path, std::string_view content, mode_t mode,
                          const std::optional<FileOwner>& owner = {});

// Makes `link` point to `target`, replacing what is there (a directory excepted) atomically.
// Errors: FAILED_PRECONDITION.
Result<void> ReplaceLink(const std::filesystem::path& link, const std::filesystem::path& target);

// Creates a directory of mode 0700 named `prefix` and six random characters. Errors: FAILED_PRECONDITION.
Result<std::filesystem::path> MakeUniqueDirectory(const std::filesystem::path& parent, std::string_view prefix);

// Makes the content of a file, or the entries of a directory, durable. Errors: FAILED_PRECONDITION.
Result<void> Sync(const std::filesystem::path& path);

}  // namespace nova::tls
