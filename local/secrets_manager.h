// A Secrets Manager on this machine that the stack's keys come from, instead of a file: `nova up --secrets-endpoint`.
// What was decided about it stands in the data folder, so that `nova secrets` and `nova audit` find it again.
#pragma once

#include <chrono>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>

#include "local/data_dir.h"
#include "nova/base/result.h"
#include "nova/base/secret.h"

namespace nova::local {

// The service that signs access tokens: it alone is told where the key is.
inline constexpr std::string_view kTokenIssuer = "identity";

struct SecretsManager {
  // "http://127.0.0.1:5000": this machine only.
  std::string endpoint;
  std::string region = "us-east-1";
  // The secret with the keys of access tokens.
  std::string jwt_secret = "dev/nova/jwt";
  // As whom the stack speaks to it. Nothing that AWS would know.
  std::string access_key_id = "AKIALOCALNOVASTACK00";
  std::filesystem::path secret_access_key_file;
  // How often identity looks at the secret, and the others at identity's keys: seconds, where a cluster has minutes, so
  // that a rotation can be watched.
  std::chrono::milliseconds soft_ttl = std::chrono::seconds(5);
  std::chrono::milliseconds hard_ttl = std::chrono::seconds(30);
  std::chrono::milliseconds keys_refresh_interval = std::chrono::seconds(5);
  // Until everybody has seen a key that was published: both of the above, and room for slow fetches.
  std::chrono::milliseconds announce = std::chrono::seconds(15);

  // What a service is given: identity how to read the secret, the others how often to look at identity's keys.
  std::map<std::string, std::string> EnvironmentOf(std::string_view service) const;
};

// What it is for this folder; makes the secret access key if there is none. Errors: INVALID_ARGUMENT, naming
// --secrets-endpoint and the remedy, for what is no http:// URL of this machine; INTERNAL.
Result<SecretsManager> PrepareSecretsManager(const Layout& layout, const std::string& endpoint);

// What the running stack, or the last one, had. Errors: NOT_FOUND if it had none; INTERNAL when it is not readable.
Result<SecretsManager> ReadSecretsManager(const Layout& layout);

// Written down with the next start; with none, what stands there is removed. Errors: INTERNAL.
Result<void> WriteSecretsManager(const Layout& layout, const SecretsManager* secrets);

// Errors: NOT_FOUND; INTERNAL.
Result<Secret<>> SecretAccessKey(const SecretsManager& secrets);

}  // namespace nova::local
