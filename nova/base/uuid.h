// UUIDs of version 7 (RFC 9562): 48 bits of Unix milliseconds, then 74 random bits. They sort by creation time,
// which keeps B-tree inserts at the right edge.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include "nova/base/clock.h"
#include "nova/base/result.h"

namespace nova {

class Uuid {
 public:
  Uuid() = default;  // the nil UUID

  // A new id of version 7; random bits from the operating system.
  static Uuid New(const Clock& clock = Clock::System());
  // Accepts the 36-character form, upper or lower case. Errors: INVALID_ARGUMENT.
  static Result<Uuid> Parse(std::string_view text);

  // Lower case, 36 characters.
  std::string ToString() const;
  bool is_nil() const { return *this == Uuid(); }
  const std::array<std::uint8_t, 16>& bytes() const { return bytes_; }

  friend auto operator<=>(const Uuid&, const Uuid&) = default;

 private:
  std::array<std::uint8_t, 16> bytes_{};
};

}  // namespace nova
