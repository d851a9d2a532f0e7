#include "audit/leak_scan.h"

#include <algorithm>
#include <array>
#include <boost/json/serialize.hpp>
#include <cctype>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <system_error>
#include <unistd.h>
#include <utility>

#include "nova/base/uuid.h"

namespace nova::audit {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kBase64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsUpper(char c) { return c >= 'A' && c <= 'Z'; }
bool IsAlpha(char c) { return IsUpper(c) || (c >= 'a' && c <= 'z'); }
bool IsAlnum(char c) { return IsAlpha(c) || IsDigit(c); }
bool IsBase64Url(char c) { return IsAlnum(c) || c == '-' || c == '_'; }

// --- The forms of a value. ---

std::string ToBase64(std::string_view bytes) {
  std::string text;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t group = 0;
    for (std::size_t k = 0; k < 3; ++k)
      group = (group << 8) | (i + k < bytes.size() ? static_cast<unsigned char>(bytes[i + k]) : 0U);
    const std::size_t digits = std::min<std::size_t>(bytes.size() - i, 3) + 1;
    for (std::size_t k = 0; k < 4; ++k) text += k < digits ? kBase64[(group >> (18 - 6 * k)) & 63] : '=';
  }
  return text;
}

// What all encodings of a text have in common that has `before` bytes in front of the value, and anything behind it:
// the digits that hold nothing but the value.
std::string InBase64(std::string_view value, std::size_t before) {
  const std::string whole = ToBase64(std::string(before, ' ') + std::string(value));
  const std::size_t begin = (before * 8 + 5) / 6;
  const std::size_t end = (before + value.size()) * 8 / 6;
  return whole.substr(begin, end - begin);
}

std::string ToBase64Url(std::string text) {
  std::ranges::replace(text, '+', '-');
  std::ranges::replace(text, '/', '_');
  return text;
}

std::string ToHex(std::string_view bytes, std::string_view digits, bool (*kept)(char), std::string_view before) {
  std::string text;
  for (const char c : bytes) {
    if (kept(c)) {
      text += c;
      continue;
    }
    const auto byte = static_cast<unsigned char>(c);
    text += before;
    text += digits[byte >> 4];
    text += digits[byte & 15];
  }
  return text;
}

constexpr std::string_view kLower = "0123456789abcdef";
constexpr std::string_view kUpper = "0123456789ABCDEF";

bool IsUnreserved(char c) { return IsAlnum(c) || c == '-' || c == '.' || c == '_' || c == '~'; }
bool IsNothing(char) { return false; }

std::string ToJson(std::string_view value) {
  const std::string quoted = boost::json::serialize(boost::json::string_view(value));
  return quoted.substr(1, quoted.size() - 2);
}

// What does not get a needle of its own because another form is the same text comes last.
std::vector<std::pair<std::string_view, std::string>> FormsOf(std::string_view value) {
  std::vector<std::pair<std::string_view, std::string>> forms{
      {"", std::string(value)},
      {", as JSON", ToJson(value)},
      {", as in a URL", ToHex(value, kUpper, IsUnreserved, "%")},
      {", as in a URL", ToHex(value, kLower, IsUnreserved, "%")},
      {", in hex", ToHex(value, kLower, IsNothing, "")},
      {", in hex", ToHex(value, kUpper, IsNothing, "")}};
  for (std::size_t before = 0; before < 3; ++before) {
    forms.emplace_back(", in base64", InBase64(value, before));
    forms.emplace_back(", in base64url", ToBase64Url(InBase64(value, before)));
  }
  return forms;
}

// --- What is found by its shape: where it is first, or npos. ---

std::size_t SkipWhile(std::string_view text, std::size_t from, bool (*is)(char)) {
  while (from < text.size() && is(text[from])) ++from;
  return from;
}

std::size_t FindPrivateKey(std::string_view text) { return text.find("PRIVATE KEY-----"); }

// header.payload.signature, of which the first two are JSON objects.
std::size_t FindToken(std::string_view text) {
  constexpr std::string_view kObject = "eyJ";
  constexpr std::size_t kPartMin = 8;
  for (std::size_t at = text.find(kObject); at != std::string_view::npos; at = text.find(kObject, at + 1)) {
    const std::size_t header_end = SkipWhile(text, at, IsBase64Url);
    if (header_end - at < kPartMin || !text.substr(header_end).starts_with(".eyJ")) continue;
    const std::size_t payload_end = SkipWhile(text, header_end + 1, IsBase64Url);
    if (payload_end == text.size() || text[payload_end] != '.') continue;
    if (SkipWhile(text, payload_end + 1, IsBase64Url) - payload_end > kPartMin) return at;
  }
  return std::string_view::npos;
}

// Four letters that say of what kind it is, and sixteen of its own.
std::size_t FindKeyId(std::string_view text, std::string_view kind) {
  constexpr std::size_t kLength = 20;
  const auto is_of_id = [](char c) { return IsUpper(c) || IsDigit(c); };
  for (std::size_t at = text.find(kind); at != std::string_view::npos; at = text.find(kind, at + 1)) {
    if (at > 0 && is_of_id(text[at - 1])) continue;
    if (SkipWhile(text, at, is_of_id) - at == kLength) return at;
  }
  return std::string_view::npos;
}
std::size_t FindAccessKeyId(std::string_view text) { return FindKeyId(text, "AKIA"); }
std::size_t FindTemporaryKeyId(std::string_view text) { return FindKeyId(text, "ASIA"); }

// scheme://user:password@host, where the password is there and not taken out.
std::size_t FindUrlPassword(std::string_view text) {
  constexpr std::size_t kUserInfoMax = 512;
  for (std::size_t at = text.find("://"); at != std::string_view::npos; at = text.find("://", at + 1)) {
    const std::string_view rest = text.substr(at + 3, kUserInfoMax);
    const std::string_view authority = rest.substr(0, rest.find_first_of("/?# \t\r\n\"'<>"));
    const std::size_t host = authority.rfind('@');
    const std::size_t password = authority.find(':');
    if (host == std::string_view::npos || password >= host || host - password < 2) continue;
    const std::string_view shown = authority.substr(password + 1, host - password - 1);
    if (shown == "[redacted]" || shown.find_first_not_of('*') == std::string_view::npos) continue;
    return at;
  }
  return std::string_view::npos;
}

std::size_t FindEmail(std::string_view text) {
  const auto is_of_local_part = [](char c) {
    return IsAlnum(c) || c == '.' || c == '_' || c == '%' || c == '+' || c == '-';
  };
  const auto is_of_domain = [](char c) { return IsAlnum(c) || c == '.' || c == '-'; };
  for (std::size_t at = text.find('@'); at != std::string_view::npos; at = text.find('@', at + 1)) {
    std::size_t begin = at;
    while (begin > 0 && is_of_local_part(text[begin - 1])) --begin;
    // "scheme://user@host" names an account of a server.
    if (begin == at || text.substr(0, begin).ends_with("//")) continue;
    std::string_view domain = text.substr(at + 1, SkipWhile(text, at + 1, is_of_domain) - at - 1);
    // The end of a sentence.
    while (!domain.empty() && !IsAlnum(domain.back())) domain.remove_suffix(1);
    const std::size_t dot = domain.rfind('.');
    if (dot == std::string_view::npos || dot == 0) continue;
    const std::string_view top = domain.substr(dot + 1);
    if (top.size() >= 2 && std::ranges::all_of(top, IsAlpha)) return at;
  }
  return std::string_view::npos;
}

struct Shape {
  std::string_view what;
  std::size_t (*find)(std::string_view text);
  std::string_view specimen;
};

// The specimens are nobody's.
constexpr std::array kShapes = {
    Shape{"a private key", FindPrivateKey, "-----BEGIN EC PRIVATE KEY-----"},
    Shape{"a JSON web token", FindToken, "eyJhbGciOiJub25lIn0.eyJzdWIiOiJub2JvZHkifQ.c2lnbmF0dXJl"},
    Shape{"the id of an AWS access key", FindAccessKeyId, "AKIAIOSFODNN7EXAMPLE"},
    Shape{"the id of a temporary AWS access key", FindTemporaryKeyId, "ASIAIOSFODNN7EXAMPLE"},
    Shape{"a URL with a password", FindUrlPassword, "postgres://nobody:hunter2@db.example/nova"},
    Shape{"an email address", FindEmail, "nobody@mail.example.com."},
};

std::uint64_t HeadOf(const char* text) {
  std::uint64_t head = 0;
  std::memcpy(&head, text, sizeof head);
  return head;
}

std::size_t SlotOf(std::uint64_t head) { return (head * 0x9E3779B97F4A7C15U) >> 48; }

Result<std::string> ReadWhole(const fs::path& path) {
  std::error_code error;
  const std::uintmax_t size = fs::file_size(path, error);
  if (error) return Internal("cannot read " + path.string(), error.message());
  if (size > LeakScan::kFileBytesMax)
    return ResourceExhausted(path.string() + " is larger than " + std::to_string(LeakScan::kFileBytesMax >> 20) +
                             " MiB");
  std::ifstream file(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  if (!file.is_open() || file.bad()) return Internal("cannot read " + path.string());
  return text;
}

std::vector<std::string_view> LinesOf(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!line.empty()) lines.push_back(line);
  }
  return lines;
}

// A file that goes with this object.
class ScratchFile {
 public:
  static Result<ScratchFile> Write(std::string_view text) {
    std::error_code error;
    const fs::path folder = fs::temp_directory_path(error);
    if (error) return Internal("there is no folder for temporary files", error.message());
    std::string name = (folder / "nova-audit-XXXXXX").string();
    const int file = ::mkstemp(name.data());
    if (file < 0) return Internal("cannot make a file in " + folder.string(), std::strerror(errno));
    ScratchFile scratch(name);
    const ssize_t written = ::write(file, text.data(), text.size());
    ::close(file);
    if (written != static_cast<ssize_t>(text.size())) return Internal("cannot write " + name);
    return scratch;
  }
  ~ScratchFile() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove(path_, ignored);
  }
  ScratchFile(ScratchFile&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  ScratchFile& operator=(ScratchFile&&) = delete;

  const fs::path& path() const { return path_; }

 private:
  explicit ScratchFile(fs::path path) : path_(std::move(path)) {}

  fs::path path_;
};

}  // namespace

void LeakScan::AddNeedle(std::string text, std::size_t what, std::string_view form) {
  if (text.size() < kValueBytesMin) return;
  const std::uint64_t head = HeadOf(text.data());
  std::vector<std::size_t>& same_head = by_head_[head];
  const bool known =
      std::ranges::any_of(same_head, [&](std::size_t needle) { return needles_[needle].text.Expose() == text; });
  if (known) return;
  heads_.set(SlotOf(head));
  same_head.push_back(needles_.size());
  needles_.push_back({.text = Secret<>(std::move(text)), .what = what, .form = form});
}

bool LeakScan::Add(const Mark& mark) {
  bool added = false;
  for (const std::string_view line : LinesOf(mark.value.Expose())) {
    if (line.size() < kValueBytesMin) continue;
    for (auto& [form, text] : FormsOf(line)) AddNeedle(std::move(text), whats_.size(), form);
    added = true;
  }
  if (added) whats_.push_back(mark.what);
  return added;
}

std::vector<Leak> LeakScan::Scan(const std::string& where, std::string_view text) const {
  std::map<std::string, std::size_t> first;  // offset, by what
  for (std::size_t at = 0; at + kValueBytesMin <= text.size(); ++at) {
    const std::uint64_t head = HeadOf(text.data() + at);
    if (!heads_.test(SlotOf(head))) continue;
    const auto same_head = by_head_.find(head);
    if (same_head == by_head_.end()) continue;
    for (const std::size_t index : same_head->second) {
      const Needle& needle = needles_[index];
      if (text.substr(at).starts_with(needle.text.Expose()))
        first.try_emplace(whats_[needle.what] + std::string(needle.form), at);
    }
  }
  for (const Shape& shape : kShapes) {
    const std::size_t at = shape.find(text);
    if (at != std::string_view::npos) first.try_emplace(std::string(shape.what), at);
  }
  std::vector<Leak> leaks;
  for (const auto& [what, at] : first) {
    const auto lines = std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(at), '\n');
    leaks.push_back({.what = what, .where = where, .line = static_cast<std::size_t>(lines) + 1});
  }
  return leaks;
}

Result<std::vector<Leak>> LeakScan::ScanFile(const fs::path& path) const {
  NOVA_TRY(const std::string text, ReadWhole(path));
  return Scan(path.filename().string(), text);
}

Result<LeakScan::Folder> LeakScan::ScanFolder(const fs::path& path) const {
  Folder folder;
  std::error_code error;
  fs::recursive_directory_iterator entries(path, error);
  if (error) return Internal("cannot read " + path.string(), error.message());
  for (const fs::recursive_directory_iterator end; entries != end; entries.increment(error)) {
    if (error) return Internal("cannot read " + path.string(), error.message());
    std::error_code ignored;
    if (!entries->is_regular_file(ignored)) continue;
    NOVA_TRY(const std::string text, ReadWhole(entries->path()));
    ++folder.files;
    folder.bytes += text.size();
    for (Leak& leak : Scan(entries->path().filename().string(), text)) folder.leaks.push_back(std::move(leak));
  }
  return folder;
}

Result<int> LeakScan::TryOut() const {
  LeakScan scan = *this;
  // With something for every form to change.
  const std::string value = Uuid::New().ToString() + " \"+/\\?~=\xC3\xA9" + Uuid::New().ToString();
  constexpr std::string_view kWhat = "a value made for this";
  const std::string what(kWhat);
  scan.Add({.what = what, .value = Secret<>(value)});
  // Encoded here as a whole, as who leaks it would, and not by what the scan looks for.
  std::vector<std::pair<std::string, std::string>> planted{
      {what, "nobody " + value + " said"},
      {what + ", as JSON", boost::json::serialize(boost::json::object{{"key", value}})},
      {what + ", as in a URL", "/?key=" + ToHex(value, kUpper, IsUnreserved, "%") + "&more"},
      {what + ", as in a URL", "/?key=" + ToHex(value, kLower, IsUnreserved, "%") + "&more"},
      {what + ", in hex", ToHex("key:" + value + ".", kLower, IsNothing, "")},
      {what + ", in hex", ToHex("key:" + value + ".", kUpper, IsNothing, "")}};
  for (const std::string_view before : {"", "a", "ab", "abc:"}) {
    const std::string encoded = ToBase64(std::string(before) + value + "\n");
    planted.emplace_back(what + ", in base64", "Basic " + encoded + ",");
    planted.emplace_back(what + ", in base64url", "Basic " + ToBase64Url(encoded) + ",");
  }
  for (const Shape& shape : kShapes) planted.emplace_back(std::string(shape.what), std::string(shape.specimen));
  // One file for each, so that none is found in another's place.
  for (const auto& [name, line] : planted) {
    NOVA_TRY(const ScratchFile file, ScratchFile::Write("a line before\n" + line + "\na line after\n"));
    NOVA_TRY(const auto leaks, scan.ScanFile(file.path()));
    // Two forms may be the same text; a shape has one name.
    const std::string_view expected = name.starts_with(kWhat) ? kWhat : std::string_view(name);
    const bool found =
        std::ranges::any_of(leaks, [&](const Leak& leak) { return leak.what.starts_with(expected) && leak.line == 2; });
    if (!found) return Internal("the scan does not find " + name + " where it was planted: it proves nothing");
  }
  return static_cast<int>(planted.size());
}

std::vector<Mark> MarksOfPem(const std::string& what, std::string_view pem) {
  std::string lines;
  bool inside = false;
  for (const std::string_view line : LinesOf(pem)) {
    if (line.starts_with("-----")) {
      inside = line.starts_with("-----BEGIN") && line.find("PRIVATE KEY") != std::string_view::npos;
    } else if (inside) {
      lines.append(line).append("\n");
    }
  }
  if (lines.empty()) return {};
  return {{.what = what, .value = Secret<>(std::move(lines))}};
}

Result<std::vector<Mark>> MarksIn(const fs::path& path) {
  std::vector<Mark> marks;
  const auto add = [&](const fs::path& file, const std::string& name) -> Result<void> {
    NOVA_TRY(std::string text, ReadWhole(file));
    if (text.find("-----BEGIN") != std::string::npos) {
      for (Mark& mark : MarksOfPem(name, text)) marks.push_back(std::move(mark));
      WipeMemory(text.data(), text.size());
    } else {
      marks.push_back({.what = name, .value = Secret<>(std::move(text))});
    }
    return Ok();
  };
  std::error_code error;
  if (fs::is_regular_file(path, error)) {
    NOVA_TRY(add(path, path.filename().string()));
    return marks;
  }
  fs::recursive_directory_iterator entries(path, error);
  if (error) return Internal("cannot read " + path.string(), error.message());
  for (const fs::recursive_directory_iterator end; entries != end; entries.increment(error)) {
    if (error) return Internal("cannot read " + path.string(), error.message());
    std::error_code ignored;
    if (!entries->is_regular_file(ignored)) continue;
    // A file that is gone by now was replaced: its successor is found as well.
    const auto added = add(entries->path(), (path.filename() / fs::relative(entries->path(), path, ignored)).string());
    if (!added && fs::exists(entries->path(), ignored)) return added.error();
  }
  return marks;
}

}  // namespace nova::audit
