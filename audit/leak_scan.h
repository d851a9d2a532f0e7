// LeakScan: looks for what nobody may read in a log: values that are known, in every form in which they may have got
// there; and texts that look like a secret or like a person, whoever's they are.
//
//   LeakScan scan;
//   scan.Add({.what = "the password of a user", .value = password});
//   NOVA_TRY(scan.TryOut());
//   NOVA_TRY(const auto leaks, scan.ScanFile("logs/identity.log"));
#pragma once

#include <bitset>
#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "nova/base/result.h"
#include "nova/base/secret.h"

namespace nova::audit {

// A value that must not be found, and what it is, for people.
struct Mark {
  std::string what = {};
  Secret<> value = {};
};

struct Leak {
  // Of the mark or the shape, and the form; never the value.
  std::string what = {};
  std::string where = {};
  // The first, from 1 on.
  std::size_t line = 0;
  // "the password of a user, in base64, in identity.log line 7"
  std::string ToString() const { return what + ", in " + where + " line " + std::to_string(line); }
};

// Copyable. Thread-safe once everything was added.
class LeakScan {
 public:
  // A shorter text is found anywhere, by chance.
  static constexpr std::size_t kValueBytesMin = 8;
  static constexpr std::uintmax_t kFileBytesMax = std::uintmax_t{256} << 20;

  // As it is, and as JSON, URLs, base64 (wherever it begins in what was encoded), base64url and hexadecimal digits have
  // it; of a text of several lines, each line that is long enough. Does nothing for what is too short. Returns whether
  // anything of it is looked for.
  bool Add(const Mark& mark);
  // Values that are looked for.
  std::size_t size() const { return whats_.size(); }

  // Each leak once, where it is first. Besides what was added: private keys in PEM, JSON web tokens, ids of AWS' access
  // keys, URLs with a password, email addresses.
  std::vector<Leak> Scan(const std::string& where, std::string_view text) const;
  // The same of a file, under its name. Errors: INTERNAL if it cannot be read; RESOURCE_EXHAUSTED if it is too large.
  Result<std::vector<Leak>> ScanFile(const std::filesystem::path& path) const;

  struct Folder {
    int files = 0;
    std::uintmax_t bytes = 0;
    std::vector<Leak> leaks;
  };
  // Of every file in a folder and below. Errors: those of ScanFile; INTERNAL if the folder cannot be read.
  Result<Folder> ScanFolder(const std::filesystem::path& path) const;

  // Plants a value made for this in a file, in each form, and one specimen of everything that is found by its shape,
  // and returns how many were planted. Errors: INTERNAL that names what was not found, or that nothing could be
  // planted.
  Result<int> TryOut() const;

 private:
  struct Needle {
    Secret<> text;
    std::size_t what;  // in whats_
    std::string_view form;
  };

  void AddNeedle(std::string text, std::size_t what, std::string_view form);

  std::vector<std::string> whats_;
  std::vector<Needle> needles_;
  std::unordered_map<std::uint64_t, std::vector<std::size_t>> by_head_;  // needles, by their first eight bytes
  std::bitset<1 << 16> heads_;                                           // what by_head_ may hold
};

// What of a file is secret: of PEM the lines within private keys; of anything else every line. For folders: of every
// file in them, symbolic links followed where they name a file. Errors: INTERNAL if something cannot be read.
Result<std::vector<Mark>> MarksIn(const std::filesystem::path& path);

// `pem` without what is no secret: its first and last line.
std::vector<Mark> MarksOfPem(const std::string& what, std::string_view pem);

}  // namespace nova::audit
