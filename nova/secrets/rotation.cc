#include "nova/secrets/rotation.h"

#include <algorithm>
#include <array>
#include <fmt/format.h>
#include <map>
#include <memory>
#include <openssl/sha.h>
#include <utility>
#include <vector>

#include "nova/base/timestamp.h"
#include "nova/base/uuid.h"
#include "nova/runtime/runtime.h"
#include "nova/secrets/failure.h"
#include "nova/secrets/jwt_secret.h"
#include "nova/secrets/secret_value.h"

namespace nova::secrets {
namespace {

using runtime::Call;
using runtime::Task;

// How often a label is looked at that others may be moving at the same time.
constexpr int kLooksMax = 4;
// How often a rotation begins anew because another one was faster.
constexpr int kRoundsMax = 8;
// Ids tried for a new version. All but the first are for predecessors that were made current again by hand.
constexpr int kTokensMax = 16;

constexpr std::string_view kTakeOff = "docs/runbooks/secret-rotation.md says how to take it off";
constexpr std::string_view kMend =
    "its successor has to say the same, so mend it first: docs/runbooks/secret-rotation.md says how";

constexpr std::array<std::pair<RotationStep, const char*>, 4> kSteps = {{
    {RotationStep::kCreate, "createSecret"},
    {RotationStep::kSet, "setSecret"},
    {RotationStep::kTest, "testSecret"},
    {RotationStep::kFinish, "finishSecret"},
}};

bool Has(const SecretValue& version, std::string_view stage) {
  return std::ranges::find(version.stages, stage) != version.stages.end();
}

// The id of the version that follows on this one: the same for everybody who asks, so that of two who rotate at once
// one makes the version and the other finds it. The secret's own name has no part in it, because one secret goes by
// name and by ARN.
std::string TokenAfter(std::string_view version_id, int attempt) {
  const std::string text = fmt::format("nova jwt rotation\n{}\n{}", version_id, attempt);
  std::array<unsigned char, SHA256_DIGEST_LENGTH> hash{};
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), hash.data());
  // A UUID of version 8, whose bits are the maker's (RFC 9562 section 5.8).
  hash[6] = static_cast<unsigned char>((hash[6] & 0x0f) | 0x80);
  hash[8] = static_cast<unsigned char>((hash[8] & 0x3f) | 0x80);
  std::string id;
  for (std::size_t i = 0; i < 16; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) id += '-';
    id += fmt::format("{:02x}", hash[i]);
  }
  return id;
}

// What cannot be mended by another look at the labels.
bool IsFinal(Code code) {
  return code == Code::kPermissionDenied || code == Code::kUnauthenticated || code == Code::kCancelled ||
         code == Code::kDeadlineExceeded;
}

// A version of a secret, and what it says.
struct Keys {
  SecretValue version;
  auth::JwtConfig jwt;
  auth::JwtKeys keys;

  const std::string& id() const { return version.version_id; }
  const std::string& kid() const { return keys.verification->keys().front().kid(); }
};

Error About(const SecretValue& version, const Error& error, std::string_view remedy = {}) {
  std::string labels;
  for (const std::string& stage : version.stages) labels += (labels.empty() ? "" : ", ") + stage;
  return {error.code(),
          fmt::format("version {} ({}): {}{}{}", version.version_id, labels.empty() ? "no label" : labels,
                      error.message(), remedy.empty() ? "" : "; ", remedy),
          error.detail()};
}

// One call's work. Confined to its strand.
class Rotation {
 public:
  Rotation(Call& call, SecretStore& store, const RotationConfig& config, const Clock& clock,
           const Rotator::Progress& progress)
      : call_(call), store_(store), config_(config), clock_(clock), progress_(progress) {}

  Task<void> Run(RotationStep step, std::string token, bool keep_tokens);
  Task<RotationReport> Rotate(bool now);

 private:
  struct Plan {
    RotationReport report;
    // Empty: nothing is to be done.
    std::string token;
  };

  // The steps.
  Task<void> Create(std::string token, bool keep_tokens);
  Task<void> Set(std::string token);
  Task<void> Test(std::string token);
  Task<void> Finish(std::string token);

  Task<Plan> Decide(bool now);
  Task<std::string> NextToken(std::string after);
  Task<void> MakeVersion(std::string token, bool keep_tokens);
  Task<Keys> Load(std::string token);
  Task<Keys> CheckVersion(SecretValue version);
  Task<Keys> CheckPublished(std::string token, std::string kid);
  Task<void> Publish(const Keys& keys);
  Task<void> AlignPublic(const Keys& keys);
  Task<void> DropStalePublic();
  // Until when tokens may be valid of the key that a rotation which begins now withdraws; nothing if it withdraws none
  // too early.
  Task<std::optional<WallTime>> TokensUntil(const Keys& current);
  // Whether it has the key of the current version. With a copy of that Secrets Manager tries this step out when a
  // schedule is set up.
  Task<bool> IsKnown(const Keys& keys);
  // When everybody has seen it. Nothing if it need not be announced: it is current, or the first of all.
  Task<std::optional<WallTime>> ReadyAt(const Keys& keys);

  // What a version of a secret says.
  Result<Keys> Read(const std::string& secret, SecretValue version, std::string_view remedy = {});

  // Nothing if there is no such version. Also if there is no such secret: AWS tells them apart for nobody who may not
  // list secrets.
  Task<std::optional<SecretValue>> Find(std::string secret, Version version);
  Task<void> Put(std::string secret, std::string token, Secret<> value);
  Task<void> Attach(std::string secret, std::string stage, std::string version);
  Task<void> Detach(std::string secret, std::string stage, std::string version);

  Error Name(std::string_view what, const Error& error) const {
    return {error.code(), fmt::format("{} of '{}': {}", what, config_.secret_id, error.message()), error.detail()};
  }
  Error NamePublic(const Error& error) const {
    return {error.code(), fmt::format("public secret '{}': {}", config_.public_secret_id, error.message()),
            error.detail()};
  }
  void Say(RotationStep step, std::string_view what) const {
    if (progress_) progress_(fmt::format("{}: {}", RotationStepName(step), what));
  }
  bool has_public() const { return !config_.public_secret_id.empty(); }
  RotationReport ReportOf(const Keys& keys, RotationReport::Outcome outcome) const {
    return {.outcome = outcome,
            .version_id = keys.id(),
            .kid = keys.kid(),
            .algorithm = keys.jwt.algorithm,
            .created_at = keys.version.created_at,
            .due_at = keys.version.created_at + config_.interval};
  }

  Call& call_;
  SecretStore& store_;
  const RotationConfig& config_;
  const Clock& clock_;
  const Rotator::Progress& progress_;
  // By secret and version, whose value never changes: its keys are costly to read.
  std::map<std::pair<std::string, std::string>, std::pair<auth::JwtConfig, auth::JwtKeys>> read_;
};

// --- Requests ---

Task<std::optional<SecretValue>> Rotation::Find(std::string secret, Version version) {
  auto found = co_await store_.Fetch(call_, std::move(secret), std::string(version.text()), version.is_id());
  if (found) co_return std::optional(*std::move(found));
  if (found.error().code() == Code::kNotFound) co_return std::optional<SecretValue>();
  co_return std::move(found).error();
}

// As AWSPENDING. A version of that id that is there already is left as it is.
Task<void> Rotation::Put(std::string secret, std::string token, Secret<> value) {
  const NewVersion version{
      .secret_id = secret, .token = token, .value = std::move(value), .stages = {std::string(kPending)}};
  auto put = co_await store_.Put(call_, version);
  if (!put && put.error().code() == Code::kNotFound) {
    if (!config_.create)
      co_return NotFound(fmt::format("there is no secret '{}', or none that this identity may see; check the name and "
                                     "the region, or make it with --create",
                                     secret),
                         put.error().message());
    const auto created = co_await store_.CreateSecret(call_, {.secret_id = secret, .token = {}, .value = {}});
    if (!created && created.error().code() != Code::kAlreadyExists) co_return created.error();
    put = co_await store_.Put(call_, version);
  }
  if (!put && put.error().code() != Code::kAlreadyExists) co_return put.error();
  co_return Ok();
}

// Each request is followed by another look, because of two who do the same one gets an error, and so does one whose
// request was repeated underneath.
Task<void> Rotation::Attach(std::string secret, std::string stage, std::string version) {
  Result<void> moved = Unavailable(fmt::format("{} does not come to stay on version {}", stage, version));
  for (int look = 0; look < kLooksMax; ++look) {
    NOVA_CO_TRY(const auto found, co_await Find(secret, Version::Id(version)));
    if (!found)
      co_return FailedPrecondition(fmt::format("'{}' has no version {}; do the steps before", secret, version));
    if (Has(*found, stage)) co_return Ok();
    if (stage == kCurrent && !Has(*found, kPending))
      co_return About(*found, Aborted("is not AWSPENDING any more; another rotation has taken its place"));
    NOVA_CO_TRY(const auto holder, co_await Find(secret, Version::Stage(stage)));
    // Somebody moved it since. To move AWSCURRENT from a version to itself would take AWSPREVIOUS away.
    if (holder && holder->version_id == version) co_return Ok();
    auto result = co_await store_.MoveStage(call_, secret, stage, version, holder ? holder->version_id : std::string());
    if (!result) {
      if (IsFinal(result.error().code())) co_return result;
      moved = std::move(result);
    }
  }
  co_return moved;
}

Task<void> Rotation::Detach(std::string secret, std::string stage, std::string version) {
  Result<void> moved = Unavailable(fmt::format("{} does not go from version {}", stage, version));
  for (int look = 0; look < kLooksMax; ++look) {
    NOVA_CO_TRY(const auto found, co_await Find(secret, Version::Id(version)));
    if (!found || !Has(*found, stage)) co_return Ok();
    auto result = co_await store_.MoveStage(call_, secret, stage, {}, version);
    if (!result) {
      if (IsFinal(result.error().code())) co_return result;
      moved = std::move(result);
    }
  }
  co_return moved;
}

// --- Versions and what they say ---

Result<Keys> Rotation::Read(const std::string& secret, SecretValue version, std::string_view remedy) {
  const auto id = std::pair(secret, version.version_id);
  if (!read_.contains(id)) {
    auto jwt = ParseJwtSecret(version.value);
    if (!jwt) return About(version, jwt.error(), remedy);
    auto keys = KeysOf(*jwt);
    if (!keys) return About(version, keys.error(), remedy);
    read_.emplace(id, std::pair(*std::move(jwt), *std::move(keys)));
  }
  const auto& [jwt, keys] = read_.at(id);
  return Keys{.version = std::move(version), .jwt = jwt, .keys = keys};
}

Task<Keys> Rotation::Load(std::string token) {
  NOVA_CO_TRY(auto version, co_await Find(config_.secret_id, Version::Id(token)));
  if (!version)
    co_return FailedPrecondition(fmt::format("there is no version {}; the step createSecret makes it", token));
  co_return co_await CheckVersion(*std::move(version));
}

// A version made by something else than this rotation must not come to sign anything.
Task<Keys> Rotation::CheckVersion(SecretValue version) {
  const bool pending = Has(version, kPending) && !Has(version, kCurrent);
  if (!pending && !Has(version, kCurrent))
    co_return About(version, Aborted("is neither AWSPENDING nor AWSCURRENT; another rotation has taken its place, or "
                                     "it was withdrawn"));
  const std::string remedy = pending ? fmt::format("it was not made by this rotation: {}", kTakeOff) : std::string();
  NOVA_CO_TRY(Keys keys, Read(config_.secret_id, std::move(version), remedy));
  const auto bad = [&](std::string problem) {
    return About(keys.version, Fail(Failure::kInvalidFormat, std::move(problem)), remedy);
  };
  if (!keys.keys.signing) co_return bad("signing_key: is missing");
  if (!pending) co_return keys;
  NOVA_CO_TRY(auto found, co_await Find(config_.secret_id, Version::Stage(kCurrent)));
  if (!found) co_return keys;
  NOVA_CO_TRY(const Keys current, Read(config_.secret_id, *std::move(found), kMend));
  const auth::Algorithm expected = config_.algorithm.value_or(current.jwt.algorithm);
  if (keys.jwt.algorithm != expected)
    co_return bad(fmt::format("algorithm: is {}, {} is expected", auth::AlgorithmName(keys.jwt.algorithm),
                              auth::AlgorithmName(expected)));
  // Running processes keep the issuer and the audience that they began with.
  if (keys.jwt.issuer != current.jwt.issuer) co_return bad("issuer: is not that of the current version");
  if (keys.jwt.audience != current.jwt.audience) co_return bad("audience: is not that of the current version");
  co_return keys;
}

Task<Keys> Rotation::CheckPublished(std::string token, std::string kid) {
  NOVA_CO_TRY(auto version, co_await Find(config_.public_secret_id, Version::Id(token)));
  if (!version)
    co_return NamePublic(FailedPrecondition(fmt::format("there is no version {}; the step setSecret makes it", token)));
  auto keys = Read(config_.public_secret_id, *std::move(version));
  if (!keys) co_return NamePublic(keys.error());
  if (keys->keys.signing)
    co_return NamePublic(About(keys->version, Fail(Failure::kInvalidFormat,
                                                   "signing_key: does not belong here; everybody who verifies can read "
                                                   "it, so rotate at once and withdraw it")));
  if (keys->kid() != kid)
    co_return NamePublic(About(
        keys->version, Fail(Failure::kInvalidFormat, "validation_key: is not the public half of the version's key")));
  co_return keys;
}

Task<std::optional<WallTime>> Rotation::TokensUntil(const Keys& current) {
  NOVA_CO_TRY(const auto previous, co_await Find(config_.secret_id, Version::Stage(kPrevious)));
  if (!previous || previous->version_id == current.id()) co_return std::optional<WallTime>();
  // The key before signed until everybody knew the current one and the last signer had looked once more.
  const WallTime until = current.version.created_at + 2 * config_.announce + current.jwt.expiry + auth::kClockSkewMax;
  if (clock_.WallNow() + config_.announce >= until) co_return std::optional<WallTime>();
  co_return std::optional(until);
}

Task<bool> Rotation::IsKnown(const Keys& keys) {
  NOVA_CO_TRY(auto current, co_await Find(config_.secret_id, Version::Stage(kCurrent)));
  if (!current || current->version_id == keys.id()) co_return false;
  NOVA_CO_TRY(const Keys known, Read(config_.secret_id, *std::move(current), kMend));
  co_return known.kid() == keys.kid();
}

Task<std::optional<WallTime>> Rotation::ReadyAt(const Keys& keys) {
  if (Has(keys.version, kCurrent)) co_return std::optional<WallTime>();
  WallTime published = keys.version.created_at;
  if (has_public()) {
    NOVA_CO_TRY(const Keys half, co_await CheckPublished(keys.id(), keys.kid()));
    published = std::max(published, half.version.created_at);
  }
  NOVA_CO_TRY(const auto current, co_await Find(config_.secret_id, Version::Stage(kCurrent)));
  if (!current) co_return std::optional<WallTime>();
  co_return std::optional(published + config_.announce);
}

// --- The steps ---

Task<void> Rotation::Create(std::string token, bool keep_tokens) {
  NOVA_CO_TRY(auto version, co_await Find(config_.secret_id, Version::Id(token)));
  const bool was_there = version.has_value();
  if (!was_there) {
    NOVA_CO_TRY(co_await MakeVersion(token, keep_tokens));
    NOVA_CO_TRY(version, co_await Find(config_.secret_id, Version::Id(token)));
    if (!version)
      co_return Unavailable(fmt::format("version {} was made, and cannot be read yet; run it again", token));
  }
  NOVA_CO_TRY(const Keys keys, co_await CheckVersion(*std::move(version)));
  Say(RotationStep::kCreate, was_there ? fmt::format("version {} is there, with key {}", token, keys.kid())
                                       : fmt::format("version {} has a new {} key, {}", token,
                                                     auth::AlgorithmName(keys.jwt.algorithm), keys.kid()));
  co_return Ok();
}

Task<void> Rotation::MakeVersion(std::string token, bool keep_tokens) {
  NOVA_CO_TRY(auto current, co_await Find(config_.secret_id, Version::Stage(kCurrent)));
  NOVA_CO_TRY(const auto pending, co_await Find(config_.secret_id, Version::Stage(kPending)));
  if (pending && !(current && pending->version_id == current->version_id))
    co_return About(*pending,
                    Aborted("another rotation is under way; `nova secrets rotate` finishes it", std::string(kTakeOff)));
  auth::JwtConfig jwt = config_.first;
  if (current) {
    NOVA_CO_TRY(Keys keys, Read(config_.secret_id, *std::move(current), kMend));
    if (keep_tokens) {
      NOVA_CO_TRY(const auto until, co_await TokensUntil(keys));
      if (until)
        co_return Unavailable(
            fmt::format("tokens of the key that it would withdraw may be valid until {}; try again "
                        "after {}, or use `nova secrets rotate --now`",
                        Timestamp(*until), Timestamp(*until - config_.announce)));
    }
    jwt = std::move(keys.jwt);
  }
  jwt.algorithm = config_.algorithm.value_or(jwt.algorithm);
  if (jwt.algorithm == auth::Algorithm::kHs256)
    co_return InvalidArgument(
        "algorithm: HS256 has no public half that could be announced; choose EdDSA, ES256 or RS256 "
        "with --algorithm");
  NOVA_CO_TRY(const auto key, auth::SigningKey::Generate(jwt.algorithm));
  NOVA_CO_TRY(jwt.signing_key, key.ToText());
  NOVA_CO_TRY(std::string validation_key, key.verification_key().ToPem());
  jwt.validation_key = Secret<>(std::move(validation_key));
  co_return co_await Put(config_.secret_id, std::move(token), FormatJwtSecret(jwt));
}

Task<void> Rotation::Set(std::string token) {
  NOVA_CO_TRY(const Keys keys, co_await Load(std::move(token)));
  if (!has_public()) co_return Ok();
  NOVA_CO_TRY(co_await Publish(keys));
  Say(RotationStep::kSet, fmt::format("its public half is in '{}'", config_.public_secret_id));
  co_return Ok();
}

Task<void> Rotation::Publish(const Keys& keys) {
  NOVA_CO_TRY(auto published, co_await Find(config_.public_secret_id, Version::Id(keys.id())));
  if (!published) {
    auth::JwtConfig jwt = keys.jwt;
    NOVA_CO_TRY(std::string validation_key, keys.keys.verification->keys().front().ToPem());
    jwt.validation_key = Secret<>(std::move(validation_key));
    const auto put = co_await Put(config_.public_secret_id, keys.id(), FormatJwtPublicSecret(jwt));
    if (!put) co_return NamePublic(put.error());
  }
  NOVA_CO_TRY(const Keys half, co_await CheckPublished(keys.id(), keys.kid()));
  if (Has(half.version, kPending) || Has(half.version, kCurrent)) co_return Ok();
  const auto attached = co_await Attach(config_.public_secret_id, std::string(kPending), keys.id());
  co_return attached ? Ok() : Result<void>(NamePublic(attached.error()));
}

Task<void> Rotation::Test(std::string token) {
  NOVA_CO_TRY(const Keys keys, co_await Load(token));
  NOVA_CO_TRY(const bool is_known, co_await IsKnown(keys));
  // As identity signs, and as everybody verifies: with the public half alone, that of the public secret if there is
  // one.
  auth::Jwks jwks({keys.keys.signing->verification_key()});
  if (has_public() && !is_known) {
    NOVA_CO_TRY(const Keys half, co_await CheckPublished(token, keys.kid()));
    jwks = auth::Jwks(half.keys.verification->keys());
  }
  const auth::JwtSigner signer(auth::TermsOf(keys.jwt), *keys.keys.signing);
  NOVA_CO_TRY(const auth::IssuedToken issued, signer.Issue(Uuid::New(clock_), Uuid::New(clock_), clock_));
  const auth::JwtVerifier verifier(auth::TermsOf(keys.jwt), std::make_shared<const auth::Jwks>(std::move(jwks)),
                                   clock_);
  const auto verified = verifier.Verify(issued.token);
  if (!verified)
    co_return About(keys.version,
                    Fail(Failure::kInvalidFormat, "a token that it signs does not verify", verified.error().detail()));
  if (is_known) co_return Ok();
  NOVA_CO_TRY(const auto ready_at, co_await ReadyAt(keys));
  bool said = false;
  while (ready_at && clock_.WallNow() < *ready_at) {
    const Duration wait = std::chrono::ceil<std::chrono::milliseconds>(*ready_at - clock_.WallNow());
    if (call_.Remaining() <= wait)
      co_return Unavailable(fmt::format("not everybody has seen version {} yet; ready at {}, try again then", token,
                                        Timestamp(std::chrono::ceil<std::chrono::seconds>(*ready_at))));
    if (!std::exchange(said, true))
      Say(RotationStep::kTest, fmt::format("it signs and verifies; by {} everybody will have seen it",
                                           Timestamp(std::chrono::ceil<std::chrono::seconds>(*ready_at))));
    NOVA_CO_TRY(co_await runtime::Sleep(call_, wait));
  }
  co_return Ok();
}

Task<void> Rotation::Finish(std::string token) {
  NOVA_CO_TRY(const Keys keys, co_await Load(token));
  NOVA_CO_TRY(const auto ready_at, co_await ReadyAt(keys));
  if (ready_at && clock_.WallNow() < *ready_at)
    co_return Unavailable(fmt::format("not everybody has seen version {} yet; ready at {}: the step testSecret waits",
                                      token, Timestamp(std::chrono::ceil<std::chrono::seconds>(*ready_at))));
  if (has_public()) {
    // Also for one that is current already: then this is a repetition, or the public secret came later.
    NOVA_CO_TRY(co_await Publish(keys));
    const auto attached = co_await Attach(config_.public_secret_id, std::string(kCurrent), token);
    if (!attached) co_return NamePublic(attached.error());
  }
  NOVA_CO_TRY(co_await Attach(config_.secret_id, std::string(kCurrent), token));
  if (has_public()) NOVA_CO_TRY(co_await DropStalePublic());
  // Last, because as long as it is there somebody will do the rest.
  NOVA_CO_TRY(co_await Detach(config_.secret_id, std::string(kPending), token));
  Say(RotationStep::kFinish, fmt::format("version {} is current", token));
  co_return Ok();
}

// AWSPENDING of the public secret stays only where the version is pending in the private one, too.
Task<void> Rotation::DropStalePublic() {
  const auto pending = co_await Find(config_.public_secret_id, Version::Stage(kPending));
  if (!pending) co_return NamePublic(pending.error());
  if (!*pending) co_return Ok();
  const std::string id = (*pending)->version_id;
  NOVA_CO_TRY(const auto owner, co_await Find(config_.secret_id, Version::Id(id)));
  if (owner && Has(*owner, kPending) && !Has(*owner, kCurrent)) co_return Ok();
  const auto detached = co_await Detach(config_.public_secret_id, std::string(kPending), id);
  co_return detached ? Ok() : Result<void>(NamePublic(detached.error()));
}

// For a public secret that was named later than the first rotation, or written to by hand.
Task<void> Rotation::AlignPublic(const Keys& keys) {
  if (!has_public()) co_return Ok();
  auto found = co_await Find(config_.public_secret_id, Version::Stage(kCurrent));
  if (!found) co_return NamePublic(found.error());
  if (*found) {
    const auto current = Read(config_.public_secret_id, **std::move(found));
    if (current && !current->keys.signing && current->kid() == keys.kid()) co_return co_await DropStalePublic();
  }
  co_return co_await Finish(keys.id());
}

Task<void> Rotation::Run(RotationStep step, std::string token, bool keep_tokens) {
  Result<void> done;
  switch (step) {
    case RotationStep::kCreate:
      done = co_await Create(std::move(token), keep_tokens);
      break;
    case RotationStep::kSet:
      done = co_await Set(std::move(token));
      break;
    case RotationStep::kTest:
      done = co_await Test(std::move(token));
      break;
    case RotationStep::kFinish:
      done = co_await Finish(std::move(token));
      break;
  }
  if (!done) co_return Name(RotationStepName(step), done.error());
  co_return Ok();
}

// --- All of them ---

Task<std::string> Rotation::NextToken(std::string after) {
  for (int attempt = 0; attempt < kTokensMax; ++attempt) {
    std::string token = TokenAfter(after, attempt);
    NOVA_CO_TRY(const auto there, co_await Find(config_.secret_id, Version::Id(token)));
    if (!there || Has(*there, kPending) || Has(*there, kCurrent)) co_return token;
    // It was here before, and is no more: either somebody has gone back to its predecessor since, or all of this has
    // happened while we looked.
    NOVA_CO_TRY(const auto current, co_await Find(config_.secret_id, Version::Stage(kCurrent)));
    if ((current ? current->version_id : std::string()) != after)
      co_return Aborted("another rotation has taken its place");
  }
  co_return FailedPrecondition(fmt::format(
      "{} successors of version {} were withdrawn; make another version current by hand", kTokensMax, after));
}

// CURRENT is read before PENDING. Whoever rotates at the same time moves labels the other way, so that a version which
// has left PENDING when it is looked at is found by its id, which follows from what was current.
Task<Rotation::Plan> Rotation::Decide(bool now) {
  using Outcome = RotationReport::Outcome;
  NOVA_CO_TRY(auto current, co_await Find(config_.secret_id, Version::Stage(kCurrent)));
  NOVA_CO_TRY(const auto pending, co_await Find(config_.secret_id, Version::Stage(kPending)));
  Plan plan;
  plan.report.outcome = current ? Outcome::kRotated : Outcome::kFirstVersion;
  if (pending) {
    plan.token = pending->version_id;
    co_return plan;
  }
  if (!current) {
    NOVA_CO_TRY(plan.token, co_await NextToken({}));
    co_return plan;
  }
  NOVA_CO_TRY(const Keys keys, Read(config_.secret_id, *std::move(current), kMend));
  plan.report = ReportOf(keys, Outcome::kNotDue);
  if (!now && clock_.WallNow() < plan.report.due_at) {
    NOVA_CO_TRY(co_await AlignPublic(keys));
    co_return plan;
  }
  NOVA_CO_TRY(const auto until, co_await TokensUntil(keys));
  if (until && !now) {
    plan.report.due_at = *until - config_.announce;
    co_return plan;
  }
  plan.report = {.outcome = Outcome::kRotated, .tokens_cut_short_until = until};
  NOVA_CO_TRY(plan.token, co_await NextToken(keys.id()));
  co_return plan;
}

Task<RotationReport> Rotation::Rotate(bool now) {
  Error lost;
  for (int round = 0; round < kRoundsMax; ++round) {
    auto plan = co_await Decide(now);
    Result<void> done = plan ? Ok() : Result<void>(Name("rotation", plan.error()));
    if (plan && plan->token.empty()) co_return plan->report;
    for (const auto& [step, name] : kSteps) {
      if (done) done = co_await Run(step, plan->token, /*keep_tokens=*/false);
    }
    if (done) {
      const auto keys = co_await Load(plan->token);
      if (!keys) co_return Name("rotation", keys.error());
      RotationReport report = ReportOf(*keys, plan->report.outcome);
      report.tokens_cut_short_until = plan->report.tokens_cut_short_until;
      co_return report;
    }
    if (done.error().code() != Code::kAborted) co_return done.error();
    lost = std::move(done).error();
  }
  co_return lost;
}

}  // namespace

const char* RotationStepName(RotationStep step) { return kSteps[static_cast<std::size_t>(step)].second; }

Result<RotationStep> ParseRotationStep(std::string_view name) {
  for (const auto& [step, known] : kSteps) {
    if (name == known) return step;
  }
  return InvalidArgument("the step must be createSecret, setSecret, testSecret or finishSecret");
}

const char* RotationOutcomeName(RotationReport::Outcome outcome) {
  switch (outcome) {
    case RotationReport::Outcome::kRotated:
      return "rotated";
    case RotationReport::Outcome::kFirstVersion:
      return "first_version";
    case RotationReport::Outcome::kNotDue:
      break;
  }
  return "not_due";
}

Rotator::Rotator(SecretStore& store, RotationConfig config, const Clock& clock, Progress progress)
    : store_(store), config_(std::move(config)), clock_(clock), progress_(std::move(progress)) {}

Task<void> Rotator::Run(Call& call, RotationStep step, std::string token) {
  if (token.size() < kTokenLengthMin || token.size() > kTokenLengthMax)
    co_return InvalidArgument(fmt::format("{} of '{}': a token of {} to {} characters is needed",
                                          RotationStepName(step), config_.secret_id, kTokenLengthMin, kTokenLengthMax));
  Rotation rotation(call, store_, config_, clock_, progress_);
  co_return co_await rotation.Run(step, std::move(token), /*keep_tokens=*/true);
}

Task<RotationReport> Rotator::Rotate(Call& call, bool now) {
  Rotation rotation(call, store_, config_, clock_, progress_);
  co_return co_await rotation.Rotate(now);
}

}  // namespace nova::secrets
