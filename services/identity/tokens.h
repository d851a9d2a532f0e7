// Tokens of which the database keeps only hashes. They are random, so a plain SHA-256 is enough: there is nothing to
// guess.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nova/base/clock.h"
#include "nova/base/secret.h"
#include "nova/base/uuid.h"

namespace nova::identity {

using Bytes = std::vector<std::uint8_t>;

// 256 random bits.
Bytes NewKey();
Bytes Sha256(std::string_view bytes);
// In time that depends on the lengths alone.
bool SameBytes(const Bytes& a, const Bytes& b);

// Names a row and proves the right to it: a device, a password reset.
class RowToken {
 public:
  // A new one for the row `id`.
  explicit RowToken(Uuid id);
  // Nothing for what Encode never makes.
  static std::optional<RowToken> Parse(std::string_view text);

  Secret<> Encode() const;
  Uuid id() const { return id_; }
  // What the row keeps.
  Bytes Hash() const { return Sha256(secret_.Expose()); }

 private:
  RowToken(Uuid id, Secret<> secret) : id_(id), secret_(std::move(secret)) {}

  Uuid id_;
  Secret<> secret_;
};

// One token of a session's family: generation 0 is handed out at log-in, each successor in exchange for the one before
// it. It carries a code made with the family's key, by which a token that was once issued is told from one made up by
// somebody who merely knows the session's id: only the former may end the session.
class RefreshToken {
 public:
  static RefreshToken First(Uuid session, const Bytes& family_key);
  // Nothing for what Encode never makes.
  static std::optional<RefreshToken> Parse(std::string_view text);

  // The same whenever it is computed from the same token and salt, so that repeated and simultaneous exchanges of one
  // token agree. Takes both: whoever has only the database, or only the old token, cannot compute it.
  RefreshToken Successor(const Bytes& salt, const Bytes& family_key) const;
  bool IssuedWith(const Bytes& family_key) const;

  Secret<> Encode() const;
  Uuid session() const { return session_; }
  std::int32_t generation() const { return generation_; }
  // What the session keeps.
  Bytes Hash() const { return Sha256(secret_.Expose()); }

 private:
  RefreshToken(Uuid session, std::int32_t generation, Secret<> secret, const Bytes& family_key);
  RefreshToken() = default;

  Bytes Code(const Bytes& family_key) const;

  Uuid session_;
  std::int32_t generation_ = 0;
  Secret<> secret_;
  Bytes code_;
};

}  // namespace nova::identity
