// What identity's tests share: the service over a real database, reached through PgBouncer as in production.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "api/events/v1/identity.pb.h"
#include "nova/auth/jwt.h"
#include "nova/auth/password.h"
#include "services/identity/migrations.h"
#include "services/identity/service.h"
#include "tests/service_fixture.h"

namespace nova::identity {

inline constexpr char kName[] = "identity";

class IdentityTest : public tests::ServiceFixture<kName, Migrations> {
 protected:
  static constexpr char kPassword[] = "correct horse battery";

  static Registration Ada() {
    return {.email = "ada@example.com",
            .username = "ada",
            .password = Secret<>(kPassword),
            .idempotency_key = Uuid::New().ToString()};
  }

  Result<Account> Register(Registration registration) {
    return Run<Account>([&](runtime::Call& call) { return service_.Register(call, registration); });
  }
  Result<Login> LogIn(Credentials credentials) {
    return Run<Login>([&](runtime::Call& call) { return service_.LogIn(call, credentials); });
  }
  Result<Login> LogIn(std::string identifier, std::string password) {
    return LogIn({.identifier = identifier, .password = Secret<>(password)});
  }
  // Registers Ada and logs her in. Precondition: she is not registered yet.
  Login AdaLoggedIn() {
    EXPECT_TRUE(Register(Ada()));
    auto login = LogIn("ada", kPassword);
    EXPECT_TRUE(login) << login.error().ToString();
    return login ? *std::move(login) : Login();
  }
  // What a log-in has read of an account, and what it does once the password is right.
  StoredAccount Read(const std::string& username) {
    const auto found =
        Run<std::optional<StoredAccount>>([&](runtime::Call& call) { return store_.FindByUsername(call, username); });
    EXPECT_TRUE(found && *found) << "there is no " << username;
    return found && *found ? **found : StoredAccount();
  }
  std::optional<Tokens> Open(const StoredAccount& account) {
    const StoredDevice device{.id = Uuid::New(clock_),
                              .account = account.account.id,
                              .token_hash = NewKey(),
                              .last_used_at = clock_.WallNow()};
    const auto opened = Run<std::optional<Tokens>>(
        [&](runtime::Call& call) { return service_.sessions().Open(call, account, "", device, NewKey()); });
    EXPECT_TRUE(opened) << opened.error().ToString();
    return opened ? *opened : std::nullopt;
  }
  static runtime::Caller CallerOf(const Tokens& tokens) {
    return {.account = tokens.account, .session = tokens.session};
  }
  Result<Tokens> Refresh(const Secret<>& refresh_token) {
    return Run<Tokens>([&](runtime::Call& call) { return service_.sessions().Refresh(call, refresh_token); });
  }
  Result<auth::Claims> Verify(const Secret<>& access_token) {
    return Run<auth::Claims>([&](runtime::Call& call) { return service_.sessions().Verify(call, access_token); });
  }
  Result<void> LogOut(const Tokens& tokens) {
    return Run<void>(CallerOf(tokens), [&](runtime::Call& call) { return service_.sessions().LogOut(call); });
  }
  Result<Account> GetAccount(const Tokens& tokens) {
    return Run<Account>(CallerOf(tokens), [&](runtime::Call& call) { return service_.GetAccount(call); });
  }

  double CounterOf(const std::string& name, const std::string& help, const std::string& label,
                   const std::string& value) {
    return metrics_.Counter(name, help, {{label, value}}).Value();
  }

  // argon2id computations so far; `operation` is hash or verify.
  std::uint64_t Computations(const std::string& operation) {
    return metrics_
        .Histogram("nova_auth_password_seconds", "Time of one argon2id computation", telemetry::kLatencyBuckets,
                   {{"operation", operation}})
        .Collect()
        .histogram.sample_count;
  }

  Store store_{pool_, outbox_};
  std::unique_ptr<auth::PasswordHasher> hasher_ =
      *auth::PasswordHasher::Create({.threads = 2, .queue_max = 256}, metrics_);
  const auth::JwtTerms terms_;
  const auth::SigningKey key_ = *auth::SigningKey::Generate(auth::Algorithm::kEdDsa);
  const auth::JwtSigner signer_{terms_, key_};
  const auth::JwtVerifier verifier_{terms_, std::make_shared<const auth::Jwks>(std::vector{key_.verification_key()}),
                                    clock_};
  const ServiceConfig config_;
  Service service_{store_, *hasher_, signer_, verifier_, metrics_, config_, clock_};
};

}  // namespace nova::identity
