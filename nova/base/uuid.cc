#include "nova/base/uuid.h"

#include <chrono>
#include <sodium.h>

namespace nova {
namespace {

int HexValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

bool IsHyphenPosition(std::size_t i) { return i == 8 || i == 13 || i == 18 || i == 23; }

}  // namespace

Uuid Uuid::New(const Clock& clock) {
  Uuid id;
  randombytes_buf(id.bytes_.data(), id.bytes_.size());
  const auto since_epoch = clock.WallNow().time_since_epoch();
  auto millis = static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(since_epoch).count());
  for (int i = 5; i >= 0; --i) {
    id.bytes_[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(millis & 0xff);
    millis >>= 8;
  }
  id.bytes_[6] = static_cast<std::uint8_t>((id.bytes_[6] & 0x0f) | 0x70);  // version 7
  id.bytes_[8] = static_cast<std::uint8_t>((id.bytes_[8] & 0x3f) | 0x80);  // RFC variant
  return id;
}

Result<Uuid> Uuid::Parse(std::string_view text) {
  if (text.size() != 36) return InvalidArgument("not a UUID: 36 characters are expected");
  Uuid id;
  std::size_t nibble = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (IsHyphenPosition(i)) {
      if (text[i] != '-') return InvalidArgument("not a UUID: a hyphen is missing");
      continue;
    }
    const int value = HexValue(text[i]);
    if (value < 0) return InvalidArgument("not a UUID: a character is not hexadecimal");
    auto& byte = id.bytes_[nibble / 2];
    byte = static_cast<std::uint8_t>((byte << 4) | value);
    ++nibble;
  }
  return id;
}

std::string Uuid::ToString() const {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string text;
  text.reserve(36);
  for (std::size_t i = 0; i < bytes_.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text.push_back('-');
    text.push_back(kHex[bytes_[i] >> 4]);
    text.push_back(kHex[bytes_[i] & 0x0f]);
  }
  return text;
}

}  // namespace nova
