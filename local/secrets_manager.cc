#include "local/secrets_manager.h"

#include <boost/asio/ip/address.hpp>
#include <boost/json.hpp>
#include <fmt/format.h>
#include <string_view>
#include <system_error>
#include <utility>

#include "local/file.h"
#include "nova/http/client.h"

namespace nova::local {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;
using std::chrono::milliseconds;

fs::path StateFile(const Layout& layout) { return layout.root / "secrets_manager.json"; }
fs::path KeyFile(const Layout& layout) { return layout.secrets() / "aws_secret_access_key"; }

std::string Text(milliseconds time) { return fmt::format("{}ms", time.count()); }

// Names are looked up by nobody here: what they mean may change, and a secret may not leave this machine.
bool IsThisMachine(const std::string& host) {
  if (host == "localhost") return true;
  boost::system::error_code error;
  const auto address = boost::asio::ip::make_address(host, error);
  return !error && address.is_loopback();
}

}  // namespace

std::map<std::string, std::string> SecretsManager::EnvironmentOf(std::string_view service) const {
  std::map<std::string, std::string> environment{{"NOVA_AUTH_KEYS_REFRESH_INTERVAL", Text(keys_refresh_interval)}};
  if (service == kTokenIssuer) {
    environment.merge(
        std::map<std::string, std::string>{{"AWS_SECRETS_JWT_NAME", jwt_secret},
                                           {"AWS_REGION", region},
                                           {"AWS_ENDPOINT_URL_SECRETS_MANAGER", endpoint},
                                           {"AWS_ACCESS_KEY_ID", access_key_id},
                                           {"AWS_SECRET_ACCESS_KEY_FILE", secret_access_key_file.string()},
                                           {"NOVA_SECRETS_SOFT_TTL", Text(soft_ttl)},
                                           {"NOVA_SECRETS_HARD_TTL", Text(hard_ttl)},
                                           {"NOVA_SECRETS_ANNOUNCE", Text(announce)}});
  }
  return environment;
}

Result<SecretsManager> PrepareSecretsManager(const Layout& layout, const std::string& endpoint) {
  constexpr std::string_view kRemedy =
      "give it the URL of a Secrets Manager on this machine, such as http://127.0.0.1:5000";
  const auto origin = http::ParseOrigin(endpoint);
  if (!origin) return InvalidArgument(fmt::format("--secrets-endpoint: {}; {}", origin.error().message(), kRemedy));
  if (origin->tls || !IsThisMachine(origin->host))
    return InvalidArgument(
        fmt::format("--secrets-endpoint: '{}' is not http:// and of this machine; {}", endpoint, kRemedy));
  SecretsManager secrets{.endpoint = endpoint, .secret_access_key_file = KeyFile(layout)};
  std::error_code error;
  if (!fs::exists(secrets.secret_access_key_file, error)) {
    NOVA_TRY(WriteFile(secrets.secret_access_key_file, RandomText()));
  }
  return secrets;
}

Result<SecretsManager> ReadSecretsManager(const Layout& layout) {
  NOVA_TRY(const std::string text, ReadFile(StateFile(layout)));
  boost::system::error_code error;
  const json::value value = json::parse(text, error);
  const json::object* const object = error ? nullptr : value.if_object();
  const auto damaged = [&] { return Internal(StateFile(layout).string() + " is damaged; start the stack again"); };
  if (object == nullptr) return damaged();
  SecretsManager secrets{.secret_access_key_file = KeyFile(layout)};
  const std::pair<std::string_view, std::string*> texts[] = {{"endpoint", &secrets.endpoint},
                                                             {"region", &secrets.region},
                                                             {"jwt_secret", &secrets.jwt_secret},
                                                             {"access_key_id", &secrets.access_key_id}};
  for (const auto& [key, field] : texts) {
    const json::value* const found = object->if_contains(key);
    if (found == nullptr || !found->is_string()) return damaged();
    *field = std::string(found->get_string());
  }
  const std::pair<std::string_view, milliseconds*> times[] = {
      {"soft_ttl_ms", &secrets.soft_ttl},
      {"hard_ttl_ms", &secrets.hard_ttl},
      {"keys_refresh_interval_ms", &secrets.keys_refresh_interval},
      {"announce_ms", &secrets.announce}};
  for (const auto& [key, field] : times) {
    const json::value* const found = object->if_contains(key);
    if (found == nullptr || !found->is_int64()) return damaged();
    *field = milliseconds(found->get_int64());
  }
  return secrets;
}

Result<void> WriteSecretsManager(const Layout& layout, const SecretsManager* secrets) {
  if (secrets == nullptr) {
    std::error_code error;
    fs::remove(StateFile(layout), error);
    if (error) return Internal("cannot remove " + StateFile(layout).string(), error.message());
    return Ok();
  }
  const json::object object{{"endpoint", secrets->endpoint},
                            {"region", secrets->region},
                            {"jwt_secret", secrets->jwt_secret},
                            {"access_key_id", secrets->access_key_id},
                            {"soft_ttl_ms", secrets->soft_ttl.count()},
                            {"hard_ttl_ms", secrets->hard_ttl.count()},
                            {"keys_refresh_interval_ms", secrets->keys_refresh_interval.count()},
                            {"announce_ms", secrets->announce.count()}};
  return WriteFile(StateFile(layout), json::serialize(object));
}

Result<Secret<>> SecretAccessKey(const SecretsManager& secrets) {
  NOVA_TRY(std::string text, ReadFile(secrets.secret_access_key_file));
  return Secret<>(std::move(text));
}

}  // namespace nova::local
