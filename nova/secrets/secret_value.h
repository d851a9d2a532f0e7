// What a secret is called, and what one version of it holds.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "nova/base/clock.h"
#include "nova/base/secret.h"

namespace nova::secrets {

// The labels that Secrets Manager itself moves.
inline constexpr std::string_view kCurrent = "AWSCURRENT";
inline constexpr std::string_view kPrevious = "AWSPREVIOUS";
inline constexpr std::string_view kPending = "AWSPENDING";

// Which version is meant. A view: valid as long as what it was made of.
class Version {
 public:
  static Version Stage(std::string_view label) { return {label, false}; }
  static Version Id(std::string_view id) { return {id, true}; }

  std::string_view text() const { return text_; }
  bool is_id() const { return is_id_; }
  friend bool operator==(const Version&, const Version&) = default;

 private:
  Version(std::string_view text, bool is_id) : text_(text), is_id_(is_id) {}
  std::string_view text_;
  bool is_id_;
};

struct SecretValue {
  // SecretString, or the decoded SecretBinary.
  Secret<> value = {};
  std::string version_id = {};
  // In the order in which they came.
  std::vector<std::string> stages = {};
  // Of this version.
  WallTime created_at = {};
};

// Shared by all who read it; the bytes are wiped when the last one lets go.
using SecretHandle = std::shared_ptr<const SecretValue>;

}  // namespace nova::secrets
