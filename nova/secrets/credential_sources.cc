#include "nova/secrets/credential_sources.h"

#include <algorithm>
#include <array>
#include <boost/asio/ip/address.hpp>
#include <boost/json.hpp>
#include <cerrno>
#include <ctime>
#include <fstream>
#include <optional>
#include <sstream>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

#include "nova/auth/strict_json.h"
#include "nova/resilience/protect.h"
#include "nova/secrets/failure.h"

namespace nova::secrets {
namespace {

namespace json = boost::json;
using resilience::Attempt;
using resilience::Idempotency;
using runtime::Call;
using runtime::Task;
using std::chrono::milliseconds;
using std::chrono::seconds;

// A token that is larger is a mistake.
constexpr std::size_t kTokenFileBytesMax = 64 * 1024;
// The names and the constant values in the request to STS.
constexpr std::size_t kFormBytesMax = 256;
// STS may not have heard of a new token or provider yet.
constexpr milliseconds kStsPause{200};
// An instance gives its token within a millisecond; where there is none, nobody shall wait longer than this.
constexpr seconds kInstanceLimit{1};
constexpr seconds kInstanceTokenTtl = std::chrono::hours(6);
// AWS' own limits.
constexpr std::size_t kSessionNameMax = 64;
constexpr std::size_t kRoleNameMax = 128;
// A code of an error; what is longer is none.
constexpr std::size_t kCodeMax = 64;

void Wipe(std::string& text) {
  WipeMemory(text.data(), text.size());
  text.clear();
}

// Its bytes are wiped in the end.
struct Wiped {
  std::string text;
  ~Wiped() { Wipe(text); }
};

// The last four characters are enough to tell two keys apart.
std::string MaskedKeyId(const std::string& id) {
  constexpr std::size_t kShown = 4;
  if (id.size() <= 2 * kShown) return "...";
  return id.substr(0, kShown) + "..." + id.substr(id.size() - kShown);
}

bool IsWord(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'); }

// What AWS takes in the names of roles and of their sessions.
bool IsNameCharacter(char c) { return IsWord(c) || std::string_view("_+=,.@-").find(c) != std::string_view::npos; }

// As AWS writes its codes; whatever else a server may say is not for messages.
std::string CodeOrNothing(std::string_view text) {
  const bool is_code =
      text.size() <= kCodeMax && std::ranges::all_of(text, [](char c) { return IsWord(c) || c == '.' || c == '_'; });
  return is_code ? std::string(text) : std::string();
}

// "2026-01-31T12:00:00Z", with or without a fraction.
std::optional<WallTime> ParseTime(const std::string& text) {
  std::tm parts{};
  const char* end = strptime(text.c_str(), "%Y-%m-%dT%H:%M:%S", &parts);
  if (end == nullptr) return std::nullopt;
  if (*end == '.') {
    do {
      ++end;
    } while (*end >= '0' && *end <= '9');
  }
  if (std::string_view(end) != "Z") return std::nullopt;
  return std::chrono::system_clock::from_time_t(timegm(&parts));
}

// Whether it may stand in a header, and is more than nothing.
bool IsToken(std::string_view text) {
  return !text.empty() && std::ranges::all_of(text, [](char c) { return c > 0x20 && c < 0x7f; });
}

// Read anew each time: whoever mounted the file replaces it.
Result<Secret<>> ReadToken(const std::string& path, std::string_view variable) {
  std::ifstream file(path, std::ios::binary);
  Wiped read{std::string(kTokenFileBytesMax + 1, '\0')};
  file.read(read.text.data(), static_cast<std::streamsize>(read.text.size()));
  const auto size = static_cast<std::size_t>(file.gcount());
  const std::string where = std::string(variable) + ": " + path;
  if (!file.is_open() || file.bad()) return Fail(Failure::kExpiredCredentials, where + " cannot be read");
  if (size > kTokenFileBytesMax) return Fail(Failure::kExpiredCredentials, where + " is no token: it is too large");
  const std::string_view text(read.text.data(), size);
  const std::size_t last = text.find_last_not_of("\r\n ");
  if (last == std::string_view::npos) return Fail(Failure::kExpiredCredentials, where + " is empty");
  const std::string_view token = text.substr(0, last + 1);
  if (!IsToken(token))
    return Fail(Failure::kExpiredCredentials,
                where + " is no token: it holds blanks, line breaks or what is not ASCII");
  return Secret<>(std::string(token));
}

Result<void> CheckTokenFile(const std::string& path, const std::string& variable) {
  struct stat status{};
  if (::stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode) && ::access(path.c_str(), R_OK) == 0) return Ok();
  return InvalidArgument(variable + ": " + path + " cannot be read; name the file that the token is mounted as");
}

void AppendEncoded(std::string& form, std::string_view text) {
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (IsWord(c) || std::string_view("-._~").find(c) != std::string_view::npos) {
      form += c;
    } else {
      form.append({'%', kDigits[byte >> 4], kDigits[byte & 15]});
    }
  }
}

// The text of the only element of that name. The replies of STS are flat enough that a parser would add nothing but its
// own faults; whatever is unexpected (twice, missing, with elements or entities within) is nothing.
std::optional<std::string> XmlText(std::string_view xml, std::string_view name) {
  const std::string open = "<" + std::string(name) + ">";
  const std::string close = "</" + std::string(name) + ">";
  const std::size_t begin = xml.find(open);
  if (begin == std::string_view::npos || xml.find(open, begin + 1) != std::string_view::npos) return std::nullopt;
  const std::size_t text = begin + open.size();
  const std::size_t end = xml.find(close, text);
  if (end == std::string_view::npos) return std::nullopt;
  const std::string_view value = xml.substr(text, end - text);
  if (value.empty() || value.find_first_of("<>&") != std::string_view::npos) return std::nullopt;
  return std::string(value);
}

// What Pod Identity and the instance answer.
Result<Credentials> ReadJson(const std::string& body, std::string_view source) {
  const auto bad = [&](std::string_view what) {
    return Fail(Failure::kExpiredCredentials,
                std::string(source) + ": the answer cannot be used: " + std::string(what));
  };
  const auto object = auth::ParseStrictObject(body, auth::WipedStorage());
  if (!object) return bad("it is not one JSON object");
  const auto text = [&](std::string_view key) {
    const json::value* const value = object->if_contains(key);
    return value != nullptr && value->is_string() ? std::string(value->get_string()) : std::string();
  };
  Credentials credentials;
  credentials.access_key_id = text("AccessKeyId");
  credentials.secret_access_key = Secret<>(text("SecretAccessKey"));
  credentials.session_token = Secret<>(text("Token"));
  credentials.expires_at = ParseTime(text("Expiration"));
  if (credentials.access_key_id.empty()) return bad("AccessKeyId is missing");
  if (credentials.secret_access_key.empty()) return bad("SecretAccessKey is missing");
  if (credentials.session_token.empty()) return bad("Token is missing");
  if (!credentials.expires_at) return bad("Expiration is no time");
  return credentials;
}

// One request of a source. What it carries in its body is wiped.
Task<http::Response> Ask(Attempt& attempt, const http::Client& http, const http::Origin& origin, http::Request request,
                         std::string_view source) {
  auto response = co_await http.Exchange(attempt, origin, request);
  Wipe(request.body);
  // It says so of nothing else than what it received.
  if (!response && response.error().code() == Code::kResourceExhausted)
    co_return Fail(Failure::kExpiredCredentials, std::string(source) + ": the answer cannot be used: it is too large");
  co_return response;
}

// What the client and the policies say does not tell whom they speak of.
Result<Obtained> Named(std::string_view source, Result<Obtained> obtained) {
  if (obtained) return obtained;
  const Error& error = obtained.error();
  const auto failure = FailureOf(error);
  if (!failure || !IsTransient(*failure) || error.message().starts_with(source)) return obtained;
  return Fail(*failure, std::string(source) + ": " + error.message(), error.detail());
}

Error BadStatus(std::string_view source, int status, const std::string& detail) {
  const std::string text = "HTTP " + std::to_string(status) + (detail.empty() ? "" : ": " + detail);
  if (status == 429) return Fail(Failure::kThrottled, std::string(source) + ": too many requests", text);
  if (status >= 500) return Fail(Failure::kNetwork, std::string(source) + ": it failed", text);
  return Fail(Failure::kExpiredCredentials, std::string(source) + ": no credentials are given", text);
}

// --- 1. The environment ---

class Environment final : public Source {
 public:
  explicit Environment(const CredentialsConfig& config)
      : credentials_{.access_key_id = config.access_key_id,
                     .secret_access_key = config.secret_access_key,
                     .session_token = config.session_token} {}

  CredentialSource kind() const override { return CredentialSource::kEnvironment; }
  std::string name() const override { return MaskedKeyId(credentials_.access_key_id); }
  bool can_be_refreshed() const override { return false; }
  Task<Obtained> Fetch(Call&) override { co_return Obtained{.credentials = credentials_, .name = name()}; }

 private:
  const Credentials credentials_;
};

// --- 2. Web identity ---

class WebIdentity final : public Source {
 public:
  WebIdentity(const CredentialsConfig& config, http::Origin sts, std::string session_name, const http::Client& http)
      : role_(config.role_arn),
        file_(config.web_identity_token_file),
        session_name_(std::move(session_name)),
        sts_(std::move(sts)),
        http_(http) {}

  CredentialSource kind() const override { return CredentialSource::kWebIdentity; }
  std::string name() const override { return role_; }

  Task<Obtained> Fetch(Call& call) override {
    const auto attempt = [this](Attempt& one) { return Try(one); };
    auto obtained =
        co_await resilience::Protect(call, http_.dependency(), attempt, {.idempotency = Idempotency::kSafe});
    // Worth another try, because STS may not have heard of a new token yet; but no throttling.
    if (!obtained && obtained.error().message() == kTokenRefused)
      co_return Fail(Failure::kExpiredCredentials, std::string(kTokenRefused) + role_, obtained.error().detail());
    co_return Named(kName, std::move(obtained));
  }

 private:
  static constexpr std::string_view kName = "web identity";
  static constexpr std::string_view kTokenRefused =
      "web identity: STS does not accept the token in AWS_WEB_IDENTITY_TOKEN_FILE for ";

  Task<Obtained> Try(Attempt& attempt) {
    NOVA_CO_TRY(const Secret<> token, ReadToken(file_, "AWS_WEB_IDENTITY_TOKEN_FILE"));
    http::Request request{.method = "POST", .path = "/"};
    request.headers.Add("Content-Type", "application/x-www-form-urlencoded");
    // Once and for all, so that no copy of the token is left behind by growing: a byte becomes three at most.
    request.body.reserve(kFormBytesMax + 3 * (role_.size() + session_name_.size() + token.Expose().size()));
    request.body = "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=";
    AppendEncoded(request.body, role_);
    request.body += "&RoleSessionName=";
    AppendEncoded(request.body, session_name_);
    request.body += "&WebIdentityToken=";
    AppendEncoded(request.body, token.Expose());
    NOVA_CO_TRY(http::Response response, co_await Ask(attempt, http_, sts_, std::move(request), kName));
    const Wiped body{std::move(response.body)};
    if (response.status != 200) co_return ReadError(attempt, response.status, body.text);
    co_return Read(body.text);
  }

  Result<Obtained> Read(const std::string& xml) const {
    const auto key_id = XmlText(xml, "AccessKeyId");
    auto key = XmlText(xml, "SecretAccessKey");
    auto token = XmlText(xml, "SessionToken");
    const auto expiration = XmlText(xml, "Expiration");
    const auto expires_at = expiration ? ParseTime(*expiration) : std::nullopt;
    if (!key_id || !key || !token || !expires_at)
      return Fail(Failure::kExpiredCredentials, "web identity: the answer of STS cannot be used for " + role_);
    return Obtained{.credentials = {.access_key_id = *key_id,
                                    .secret_access_key = Secret<>(*std::move(key)),
                                    .session_token = Secret<>(*std::move(token)),
                                    .expires_at = expires_at},
                    .name = XmlText(xml, "Arn").value_or(role_)};
  }

  Error ReadError(Attempt& attempt, int status, const std::string& xml) const {
    const std::string code = CodeOrNothing(XmlText(xml, "Code").value_or(""));
    // STS repeats no token in its messages, but nothing here depends on that: they are not shown.
    const std::string detail = "HTTP " + std::to_string(status) + (code.empty() ? "" : ", " + code);
    if (code == "IDPCommunicationError" || code == "InvalidIdentityToken") {
      attempt.SetPushBack({.wait = kStsPause});
      if (code == "IDPCommunicationError")
        return Fail(Failure::kNetwork, "web identity: STS cannot reach the identity provider", detail);
      return ResourceExhausted(std::string(kTokenRefused), detail);
    }
    if (code == "Throttling" || code == "ThrottlingException" || code == "RequestLimitExceeded" || status == 429) {
      attempt.SetPushBack({.wait = kStsPause});
      return Fail(Failure::kThrottled, "web identity: STS: too many requests", detail);
    }
    if (status >= 500) return Fail(Failure::kNetwork, "web identity: STS failed", detail);
    return Fail(Failure::kExpiredCredentials,
                "web identity: STS does not let this service account assume " + role_ +
                    "; check the role's trust policy and the token in AWS_WEB_IDENTITY_TOKEN_FILE",
                detail);
  }

  const std::string role_;
  const std::string file_;
  const std::string session_name_;
  const http::Origin sts_;
  const http::Client& http_;
};

// --- 3. Pod Identity ---

struct Url {
  http::Origin origin;
  std::string path = "/";
  std::string query = {};
};

class PodIdentity final : public Source {
 public:
  PodIdentity(Url url, std::string file, const http::Client& http)
      : url_(std::move(url)), file_(std::move(file)), http_(http) {}

  CredentialSource kind() const override { return CredentialSource::kPodIdentity; }
  std::string name() const override { return "Pod Identity at " + url_.origin.Authority(); }

  Task<Obtained> Fetch(Call& call) override {
    const auto attempt = [this](Attempt& one) { return Try(one); };
    co_return Named(
        kName, co_await resilience::Protect(call, http_.dependency(), attempt, {.idempotency = Idempotency::kSafe}));
  }

 private:
  static constexpr std::string_view kName = "Pod Identity";

  Task<Obtained> Try(Attempt& attempt) {
    NOVA_CO_TRY(const Secret<> token, ReadToken(file_, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"));
    http::Request request{.method = "GET", .path = url_.path, .query = url_.query};
    request.headers.Add("Authorization", token.Expose());
    NOVA_CO_TRY(http::Response response, co_await Ask(attempt, http_, url_.origin, std::move(request), kName));
    const Wiped body{std::move(response.body)};
    if (response.status != 200) {
      const auto object = auth::ParseStrictObject(body.text);
      const json::value* const code = object ? object->if_contains("code") : nullptr;
      co_return BadStatus(kName, response.status,
                          code != nullptr && code->is_string() ? CodeOrNothing(code->get_string()) : std::string());
    }
    NOVA_CO_TRY(Credentials credentials, ReadJson(body.text, kName));
    co_return Obtained{.credentials = std::move(credentials), .name = name()};
  }

  const Url url_;
  const std::string file_;
  const http::Client& http_;
};

// --- 4. The instance ---

class Instance final : public Source {
 public:
  Instance(http::Origin origin, const http::Client& http, const Clock& clock)
      : origin_(std::move(origin)), http_(http), clock_(clock) {}

  CredentialSource kind() const override { return CredentialSource::kInstance; }
  std::string name() const override { return "the instance's role"; }

  // Asked by one flight at a time, so the token needs no lock.
  Task<Obtained> Fetch(Call& call) override {
    for (bool again = true;; again = false) {
      if (token_.empty() || clock_.Now() >= token_ends_) NOVA_CO_TRY(co_await FetchToken(call));
      const auto attempt = [this](Attempt& one) { return Try(one); };
      auto obtained =
          co_await resilience::Protect(call, http_.dependency(), attempt, {.idempotency = Idempotency::kSafe});
      const bool is_forgotten = token_.empty();
      if (!is_forgotten || !again) co_return Named(kName, std::move(obtained));
    }
  }

 private:
  static constexpr std::string_view kName = "the instance's metadata";

  // Never without a token: the first version of the protocol gives the role to whoever can make the process fetch a
  // URL.
  Task<void> FetchToken(Call& call) {
    Call limited(call, kInstanceLimit);
    const auto attempt = [this](Attempt& one) { return TryToken(one); };
    const auto got =
        co_await resilience::Protect(limited, http_.dependency(), attempt, {.idempotency = Idempotency::kSafe});
    if (got) co_return Ok();
    NOVA_CO_TRY(call.Check());
    if (!has_answered_)
      co_return Fail(Failure::kNetwork,
                     "there are no AWS credentials: neither AWS_ACCESS_KEY_ID, AWS_ROLE_ARN nor "
                     "AWS_CONTAINER_CREDENTIALS_FULL_URI is set, and no instance's metadata answers; set one of them",
                     got.error().ToString());
    co_return Named(kName, got.error()).error();
  }

  Task<void> TryToken(Attempt& attempt) {
    token_ = {};
    http::Request request{.method = "PUT", .path = "/latest/api/token"};
    request.headers.Add("X-aws-ec2-metadata-token-ttl-seconds", std::to_string(kInstanceTokenTtl.count()));
    const SteadyTime asked = clock_.Now();
    NOVA_CO_TRY(http::Response response, co_await Ask(attempt, http_, origin_, std::move(request), kName));
    has_answered_ = true;
    const Wiped body{std::move(response.body)};
    if (response.status != 200) co_return BadStatus(kName, response.status, "no token");
    if (!IsToken(body.text))
      co_return Fail(Failure::kExpiredCredentials, std::string(kName) + ": the answer cannot be used: it is no token");
    token_ = Secret<>(body.text);
    token_ends_ = asked + kInstanceTokenTtl;
    co_return Ok();
  }

  Task<Obtained> Try(Attempt& attempt) {
    const std::string folder = "/latest/meta-data/iam/security-credentials/";
    NOVA_CO_TRY(const http::Response role, co_await Get(attempt, folder));
    if (role.status == 404)
      co_return Fail(Failure::kExpiredCredentials, std::string(kName) + ": the instance has no role");
    if (role.status != 200) co_return BadStatus(kName, role.status, "");
    const std::string name = role.body.substr(0, role.body.find('\n'));
    if (name.empty() || name.size() > kRoleNameMax || !std::ranges::all_of(name, IsNameCharacter))
      co_return Fail(Failure::kExpiredCredentials,
                     std::string(kName) + ": the answer cannot be used: it names no role");
    NOVA_CO_TRY(http::Response answer, co_await Get(attempt, folder + name));
    const Wiped body{std::move(answer.body)};
    if (answer.status != 200) co_return BadStatus(kName, answer.status, "");
    NOVA_CO_TRY(Credentials credentials, ReadJson(body.text, kName));
    co_return Obtained{.credentials = std::move(credentials), .name = "role " + name + " of the instance"};
  }

  Task<http::Response> Get(Attempt& attempt, std::string path) {
    http::Request request{.method = "GET", .path = std::move(path)};
    request.headers.Add("X-aws-ec2-metadata-token", token_.Expose());
    auto response = co_await Ask(attempt, http_, origin_, std::move(request), kName);
    // It knows the token no more.
    if (response && response->status == 401) token_ = {};
    co_return response;
  }

  const http::Origin origin_;
  const http::Client& http_;
  const Clock& clock_;
  Secret<> token_;
  SteadyTime token_ends_{};
  bool has_answered_ = false;
};

// --- Which of them ---

// Where a token may go in plaintext: to this machine, and to the addresses that AWS serves on the node itself.
bool MayBePlain(const std::string& host) {
  boost::system::error_code error;
  const auto address = boost::asio::ip::make_address(host, error);
  constexpr std::array<std::string_view, 3> kNode = {"169.254.170.2", "169.254.170.23", "fd00:ec2::23"};
  return !error && (address.is_loopback() || std::ranges::find(kNode, address.to_string()) != kNode.end());
}

Result<Url> ParseUrl(const std::string& text) {
  const std::size_t host = text.find("://");
  const std::size_t path = host == std::string::npos ? host : text.find_first_of("/?", host + 3);
  Url url;
  NOVA_TRY(url.origin, http::ParseOrigin(text.substr(0, path)));
  if (path == std::string::npos) return url;
  const std::size_t query = text.find('?', path);
  url.path = text.substr(path, query == std::string::npos ? query : query - path);
  if (query != std::string::npos) url.query = text.substr(query + 1);
  if (url.path.empty()) url.path = "/";
  if (!IsToken(url.path + url.query) || text.contains('#'))
    return InvalidArgument("the path or the query is none of a URL; escape what is not plain");
  return url;
}

Result<std::unique_ptr<Source>> MakePodIdentity(const CredentialsConfig& config, const http::Client& http) {
  constexpr std::string_view kUri = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
  auto url = ParseUrl(config.container_full_uri);
  if (!url) return InvalidArgument(std::string(kUri) + ": " + url.error().message());
  if (!url->origin.tls && !MayBePlain(url->origin.host))
    return InvalidArgument(std::string(kUri) +
                           ": plain http:// is for this machine and the addresses of AWS on the node alone; use "
                           "https://");
  NOVA_TRY(CheckTokenFile(config.container_token_file, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"));
  return std::unique_ptr<Source>(std::make_unique<PodIdentity>(*std::move(url), config.container_token_file, http));
}

// Who it is in CloudTrail: the pod's name, as far as AWS takes it.
std::string SessionName(const CredentialsConfig& config) {
  std::string name = config.role_session_name;
  if (name.empty()) {
    std::array<char, 256> host{};
    if (::gethostname(host.data(), host.size() - 1) == 0) name = std::string("nova-") + host.data();
  }
  std::erase_if(name, [](char c) { return !IsNameCharacter(c); });
  name.resize(std::min(name.size(), kSessionNameMax));
  return name.size() < 2 ? "nova" : name;
}

Result<std::unique_ptr<Source>> MakeWebIdentity(const CredentialsConfig& config, const std::string& region,
                                                const http::Client& http) {
  if (!config.role_arn.starts_with("arn:"))
    return InvalidArgument("AWS_ROLE_ARN: '" + config.role_arn +
                           "' is no ARN; name a role such as arn:aws:iam::123456789012:role/nova");
  NOVA_TRY(CheckTokenFile(config.web_identity_token_file, "AWS_WEB_IDENTITY_TOKEN_FILE"));
  const std::string endpoint = !config.sts_endpoint.empty() ? config.sts_endpoint
                                                            : "https://sts." + region + ".amazonaws.com" +
                                                                  (region.starts_with("cn-") ? ".cn" : "");
  auto sts = http::ParseOrigin(endpoint);
  if (!sts) return InvalidArgument("AWS_ENDPOINT_URL_STS: " + sts.error().message());
  if (!sts->tls && !MayBePlain(sts->host))
    return InvalidArgument(
        "AWS_ENDPOINT_URL_STS: it would send the token in plaintext to another machine; use https://");
  return std::unique_ptr<Source>(std::make_unique<WebIdentity>(config, *std::move(sts), SessionName(config), http));
}

// Half of a pair is a mistake, and no reason to go on to the next source.
Result<bool> BothOrNone(bool first, bool second, std::string_view first_name, std::string_view second_name) {
  if (first == second) return first;
  return InvalidArgument(std::string(first ? second_name : first_name) + ": is not set, and " +
                         std::string(first ? first_name : second_name) + " is; set both or none");
}

}  // namespace

Result<std::unique_ptr<Source>> MakeSource(const CredentialsConfig& config, const std::string& region,
                                           const http::Client& http, const Clock& clock) {
  NOVA_TRY(const bool environment, BothOrNone(!config.access_key_id.empty(), !config.secret_access_key.empty(),
                                              "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"));
  if (environment) return std::unique_ptr<Source>(std::make_unique<Environment>(config));
  if (!config.session_token.empty())
    return InvalidArgument("AWS_SESSION_TOKEN: is set without AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY");
  NOVA_TRY(const bool web_identity, BothOrNone(!config.role_arn.empty(), !config.web_identity_token_file.empty(),
                                               "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE"));
  if (web_identity) return MakeWebIdentity(config, region, http);
  NOVA_TRY(const bool pod_identity,
           BothOrNone(!config.container_full_uri.empty(), !config.container_token_file.empty(),
                      "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"));
  if (pod_identity) return MakePodIdentity(config, http);
  if (config.instance_disabled)
    return NotFound(
        "there are no AWS credentials: neither AWS_ACCESS_KEY_ID, AWS_ROLE_ARN nor AWS_CONTAINER_CREDENTIALS_FULL_URI "
        "is set, and AWS_EC2_METADATA_DISABLED is true");
  auto origin = http::ParseOrigin(config.instance_endpoint);
  if (!origin) return InvalidArgument("AWS_EC2_METADATA_SERVICE_ENDPOINT: " + origin.error().message());
  return std::unique_ptr<Source>(std::make_unique<Instance>(*std::move(origin), http, clock));
}

}  // namespace nova::secrets
