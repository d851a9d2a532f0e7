// The value of a secret that holds JWT keys, and its JSON:
//
//   {"signing_key": "-----BEGIN PRIVATE KEY-----...", "validation_key": "-----BEGIN PUBLIC KEY-----...",
//    "algorithm": "EdDSA", "issuer": "nova", "audience": ["nova"], "expiry_seconds": 900}
//
// All are needed, but for one of the two keys: who only verifies reads a secret without `signing_key`, and beside that
// the `validation_key` says nothing new. With HS256 the signing key is the shared secret itself, in base64, and there
// is no validation key. Other members are passed over: owners keep notes of their own in the same secret.
#pragma once

#include <chrono>

#include "nova/auth/jwt.h"
#include "nova/base/result.h"
#include "nova/base/secret.h"

namespace nova::secrets {

// Of `expiry_seconds`, as of NOVA_AUTH_JWT_EXPIRY.
inline constexpr std::chrono::seconds kJwtExpiryMin{1};
inline constexpr std::chrono::seconds kJwtExpiryMax = std::chrono::hours(24);

// A line end in a PEM key may also be written as the two characters \n, which is what a console makes of one that is
// pasted in. Errors: kInvalidFormat that names the field and what it must be, never its value: not one JSON object, a
// member that stands twice, one that is missing or of the wrong type, a key that is none or does not fit the algorithm,
// halves that do not belong together.
Result<auth::JwtConfig> ParseJwtSecret(const Secret<>& json);

// The keys themselves. Errors: kInvalidFormat as above; never for what ParseJwtSecret returned.
Result<auth::JwtKeys> KeysOf(const auth::JwtConfig& jwt);

Secret<> FormatJwtSecret(const auth::JwtConfig& jwt);
// The same without what signs. Precondition: there is a validation key.
Secret<> FormatJwtPublicSecret(const auth::JwtConfig& jwt);

}  // namespace nova::secrets
