#include "nova/secrets/api.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <boost/asio/ip/address.hpp>
#include <boost/json.hpp>
#include <cmath>
#include <ctime>
#include <openssl/evp.h>
#include <optional>
#include <unistd.h>
#include <utility>

#include "nova/auth/strict_json.h"
#include "nova/secrets/sigv4.h"
#include "nova/telemetry/log.h"

namespace nova::secrets {
namespace {

namespace json = boost::json;
using resilience::Attempt;
using resilience::Idempotency;
using runtime::Call;
using runtime::Task;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr char kService[] = "secretsmanager";
constexpr char kContentType[] = "application/x-amz-json-1.1";
constexpr std::string_view kTarget = "secretsmanager.";
constexpr char kGet[] = "GetSecretValue";
constexpr char kPut[] = "PutSecretValue";
constexpr char kMove[] = "UpdateSecretVersionStage";
constexpr char kCreate[] = "CreateSecret";
// A value of 64 KiB, base64 or escaped, and what stands around it.
constexpr int kBodyBytesMax = 512 * 1024;
// How long a throttled request waits at least, where AWS does not say.
constexpr milliseconds kThrottlePause{100};
// AWS takes a signature for five minutes; a clock that is off by less than this is not worth a word.
constexpr seconds kSkewMin{60};
constexpr std::size_t kRegionBytesMax = 40;
// What is kept of AWS' own words, and of the names it gives.
constexpr std::size_t kSaidBytesMax = 300;
constexpr std::size_t kNameBytesMax = 80;

struct KnownCode {
  std::string_view code;
  Failure failure;
  std::string_view says;
};

// https://docs.aws.amazon.com/secretsmanager/latest/apireference/CommonErrors.html and those of the operations.
constexpr KnownCode kCodes[] = {
    {"ResourceNotFoundException", Failure::kNotFound, "there is no such secret, version or stage"},
    // Its usual cause: the secret is scheduled for deletion.
    {"InvalidRequestException", Failure::kNotFound, "the secret cannot be used in its state; is it being deleted?"},
    {"AccessDeniedException", Failure::kAccessDenied, "access is denied"},
    {"AccessDenied", Failure::kAccessDenied, "access is denied"},
    {"NotAuthorized", Failure::kAccessDenied, "access is denied"},
    {"OptInRequired", Failure::kAccessDenied, "the account has no access to the service"},
    {"DecryptionFailure", Failure::kDecryptionFailed, "KMS does not decrypt it"},
    {"EncryptionFailure", Failure::kDecryptionFailed, "KMS does not encrypt it"},
    {"KMSAccessDeniedException", Failure::kDecryptionFailed, "KMS does not allow this identity its key"},
    {"ThrottlingException", Failure::kThrottled, "too many requests"},
    {"Throttling", Failure::kThrottled, "too many requests"},
    {"ThrottledException", Failure::kThrottled, "too many requests"},
    {"RequestThrottled", Failure::kThrottled, "too many requests"},
    {"RequestThrottledException", Failure::kThrottled, "too many requests"},
    {"TooManyRequestsException", Failure::kThrottled, "too many requests"},
    {"RequestLimitExceeded", Failure::kThrottled, "too many requests"},
    {"SlowDown", Failure::kThrottled, "too many requests"},
    {"ExpiredTokenException", Failure::kExpiredCredentials, "the credentials have expired"},
    {"ExpiredToken", Failure::kExpiredCredentials, "the credentials have expired"},
    {"UnrecognizedClientException", Failure::kExpiredCredentials, "the credentials are not valid"},
    {"InvalidClientTokenId", Failure::kExpiredCredentials, "the credentials are not valid"},
    {"InvalidSignatureException", Failure::kExpiredCredentials, "the signature is refused"},
    {"SignatureDoesNotMatch", Failure::kExpiredCredentials, "the signature is refused"},
    {"RequestExpired", Failure::kExpiredCredentials, "the signature is too old"},
    {"RequestTimeTooSkewed", Failure::kExpiredCredentials, "the clock of this machine is wrong"},
    {"IncompleteSignature", Failure::kExpiredCredentials, "the signature is refused"},
    {"IncompleteSignatureException", Failure::kExpiredCredentials, "the signature is refused"},
    {"MissingAuthenticationToken", Failure::kExpiredCredentials, "the request was not signed"},
    {"MissingAuthenticationTokenException", Failure::kExpiredCredentials, "the request was not signed"},
    {"InternalServiceError", Failure::kNetwork, "the service failed"},
    {"InternalFailure", Failure::kNetwork, "the service failed"},
    {"InternalServerError", Failure::kNetwork, "the service failed"},
    {"RequestTimeout", Failure::kNetwork, "the request took too long to arrive"},
    {"RequestTimeoutException", Failure::kNetwork, "the request took too long to arrive"},
    {"ServiceUnavailable", Failure::kNetwork, "the service is not available"},
    {"ServiceUnavailableException", Failure::kNetwork, "the service is not available"},
};

// These may mean that our clock is wrong.
bool MayBeSkew(std::string_view code) {
  constexpr std::array<std::string_view, 4> kCodesOfSkew = {"InvalidSignatureException", "RequestTimeTooSkewed",
                                                            "RequestExpired", "SignatureDoesNotMatch"};
  return std::ranges::find(kCodesOfSkew, code) != kCodesOfSkew.end();
}

// What was asked for cannot be: a mistake of the caller's, or of the settings.
bool IsBadParameter(std::string_view code) {
  constexpr std::array<std::string_view, 6> kBad = {"InvalidParameterException", "InvalidParameterValue",
                                                    "MissingParameter",          "ValidationException",
                                                    "ValidationError",           "SerializationException"};
  return std::ranges::find(kBad, code) != kBad.end();
}

// It says so with a code for whatever else is denied.
constexpr std::string_view kKmsDenies = "Access to KMS is not allowed";

bool IsRegion(std::string_view text) {
  return !text.empty() && text.size() <= kRegionBytesMax && text.front() != '-' && text.back() != '-' &&
         std::ranges::all_of(text, [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-'; });
}

bool IsThisMachine(const std::string& host) {
  if (host == "localhost") return true;
  boost::system::error_code error;
  const auto address = boost::asio::ip::make_address(host, error);
  return !error && address.is_loopback();
}

std::string EndpointOf(const ApiConfig& api) {
  if (!api.endpoint.empty()) return api.endpoint;
  // China has a suffix of its own.
  return std::string("https://secretsmanager.") + api.region + ".amazonaws.com" +
         (api.region.starts_with("cn-") ? ".cn" : "");
}

void Wipe(std::string& text) {
  WipeMemory(text.data(), text.size());
  text.clear();
}

// "com.amazonaws...#ResourceNotFoundException:http://..." names ResourceNotFoundException.
std::string BareCode(std::string_view code) {
  if (const std::size_t mark = code.rfind('#'); mark != std::string_view::npos) code = code.substr(mark + 1);
  return std::string(code.substr(0, code.find(':')));
}

std::string TextOf(const json::object& object, std::string_view key) {
  const json::value* const value = object.if_contains(key);
  return value != nullptr && value->is_string() ? std::string(value->get_string()) : std::string();
}

// Of a code or an id: nothing if it is none, because it goes to the log.
std::string PlainName(std::string name) {
  const bool plain = name.size() <= kNameBytesMax && std::ranges::all_of(name, [](char c) {
                       return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
                              c == '_' || c == '.';
                     });
  return plain ? name : std::string();
}

// One line of bounded length.
std::string OneLine(std::string text) {
  if (text.size() > kSaidBytesMax) {
    std::size_t end = kSaidBytesMax;
    while ((static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
    text.resize(end);
  }
  std::ranges::replace_if(text, [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }, ' ');
  return text;
}

// For a request, which may hold a value: as json::serialize, without the copies that a string leaves behind as it
// grows.
std::string SerializeOnce(const json::object& request) {
  json::serializer serializer;
  std::array<char, 1024> piece;
  std::size_t size = 0;
  serializer.reset(&request);
  while (!serializer.done()) size += serializer.read(piece.data(), piece.size()).size();
  WipeMemory(piece.data(), piece.size());
  std::string text(size, '\0');
  serializer.reset(&request);
  serializer.read(text.data(), text.size());
  return text;
}

std::optional<WallTime> DateOf(const http::Response& response) {
  std::tm parts{};
  const std::string text(response.headers.Get("Date"));
  const char* const end = strptime(text.c_str(), "%a, %d %b %Y %H:%M:%S GMT", &parts);
  if (text.empty() || end == nullptr || *end != '\0') return std::nullopt;
  return std::chrono::system_clock::from_time_t(timegm(&parts));
}

// Refused for its form, so that no part of it is shown.
Error BadAnswer(std::string_view what) {
  return Fail(Failure::kInvalidFormat, "Secrets Manager's answer cannot be read: " + std::string(what));
}

Result<std::string> DecodeBase64(std::string_view text) {
  // OpenSSL is more generous than RFC 4648.
  const std::size_t padding = text.size() - (text.find_last_not_of('=') + 1);
  const bool all_digits = std::ranges::all_of(text.substr(0, text.size() - padding), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '+' || c == '/';
  });
  if (text.size() % 4 != 0 || padding > 2 || !all_digits) return BadAnswer("SecretBinary is not base64");
  std::string bytes(text.size() / 4 * 3, '\0');
  const int size = EVP_DecodeBlock(reinterpret_cast<unsigned char*>(bytes.data()),
                                   reinterpret_cast<const unsigned char*>(text.data()), static_cast<int>(text.size()));
  if (size < 0) return BadAnswer("SecretBinary is not base64");
  bytes.resize(static_cast<std::size_t>(size) - padding);
  return bytes;
}

Result<SecretValue> ReadValue(const json::object& answer) {
  SecretValue value;
  const json::value* const text = answer.if_contains("SecretString");
  const json::value* const binary = answer.if_contains("SecretBinary");
  if (text != nullptr && text->is_string()) {
    value.value = Secret<>(std::string(text->get_string()));
  } else if (binary != nullptr && binary->is_string()) {
    NOVA_TRY(std::string bytes, DecodeBase64(binary->get_string()));
    value.value = Secret<>(std::move(bytes));
  } else {
    return BadAnswer("it holds neither SecretString nor SecretBinary");
  }
  if (value.value.Expose().size() > kSecretBytesMax) return BadAnswer("the value is larger than 64 KiB");
  value.version_id = TextOf(answer, "VersionId");
  if (value.version_id.empty()) return BadAnswer("VersionId is missing");
  if (const json::value* const stages = answer.if_contains("VersionStages"); stages != nullptr && stages->is_array()) {
    for (const json::value& stage : stages->get_array()) {
      if (stage.is_string()) value.stages.emplace_back(stage.get_string());
    }
  }
  const json::value* const created = answer.if_contains("CreatedDate");
  if (created == nullptr || !created->is_number()) return BadAnswer("CreatedDate is missing");
  // Seconds, with a fraction from AWS.
  const double date = created->to_number<double>();
  if (!std::isfinite(date) || date < 0 || date > 9e9) return BadAnswer("CreatedDate is no time");
  value.created_at = WallTime(milliseconds(std::llround(date * 1000)));
  return value;
}

}  // namespace

void Bind(config::Config& config, ApiConfig& api) {
  // Of two names of AWS' own the more special one is bound last, and counts.
  config.Field("aws.default_region", api.region,
               {.help = "region of AWS, where AWS_REGION is not set", .env = "AWS_DEFAULT_REGION"});
  config.Field("aws.region", api.region, {.help = "region of AWS", .env = "AWS_REGION"});
  config.Field("aws.endpoint_url", api.endpoint,
               {.help = "URL of every service of AWS, where none of its own is set", .env = "AWS_ENDPOINT_URL"});
  config.Field(
      "aws.endpoint_url_secrets_manager", api.endpoint,
      {.help = "URL of Secrets Manager; unset: that of the region", .env = "AWS_ENDPOINT_URL_SECRETS_MANAGER"});
  config.Field(
      "aws.ca_bundle", api.ca_path,
      {.help = "PEM file of the authorities of AWS' certificates; unset: the system's", .env = "AWS_CA_BUNDLE"});
}

Result<void> Validate(const ApiConfig& api) {
  if (api.region.empty())
    return InvalidArgument("AWS_REGION: is not set; name the region of the secrets, such as eu-central-1");
  if (!IsRegion(api.region))
    return InvalidArgument("AWS_REGION (or AWS_DEFAULT_REGION): '" + api.region +
                           "' is no region; name one such as eu-central-1");
  if (!api.ca_path.empty() && ::access(api.ca_path.c_str(), R_OK) != 0)
    return InvalidArgument("AWS_CA_BUNDLE: " + api.ca_path +
                           " cannot be read; name a PEM file of certificates, or leave it out for the system's");
  if (api.endpoint.empty()) return Ok();
  const auto origin = http::ParseOrigin(api.endpoint);
  if (!origin)
    return InvalidArgument("AWS_ENDPOINT_URL_SECRETS_MANAGER (or AWS_ENDPOINT_URL): " + origin.error().message());
  if (!origin->tls && !IsThisMachine(origin->host))
    return InvalidArgument("AWS_ENDPOINT_URL_SECRETS_MANAGER (or AWS_ENDPOINT_URL): '" + api.endpoint +
                           "' would send secrets in plaintext to another machine; use https://");
  return Ok();
}

class SecretsApi::Impl {
 public:
  Impl(telemetry::Metrics& metrics, resilience::HttpDependency& dependency, CredentialsProvider& credentials,
       const ApiConfig& config, const Clock& clock)
      : metrics_(metrics),
        credentials_(credentials),
        clock_(clock),
        scope_{.region = config.region, .service = kService},
        origin_(*http::ParseOrigin(EndpointOf(config))),
        http_(dependency, {.body_bytes_max = kBodyBytesMax, .ca_path = config.ca_path}) {}

  // The answer of an operation. `request` may hold a value: its text is wiped.
  Task<json::object> Invoke(Call& call, std::string operation, json::object request, Idempotency idempotency) {
    std::string body = SerializeOnce(request);
    const SteadyTime begin = clock_.Now();
    Result<json::object> answer = Internal("nothing was asked");
    Duration limit = Duration::max();
    // Twice at most: credentials that were refused are replaced once, and a clock that is wrong is corrected once.
    for (int round = 0; round < 2; ++round) {
      // Outside of the policies: that credentials are not to be had is no fault of Secrets Manager's.
      auto credentials = co_await credentials_.Get(call);
      if (!credentials) {
        answer = std::move(credentials).error();
        break;
      }
      bool again = false;
      const auto attempt = [&](Attempt& one) { return Try(one, operation, body, *credentials, again); };
      const SteadyTime asked = clock_.Now();
      answer =
          co_await resilience::Protect(call, http_.dependency(), attempt, {.idempotency = idempotency, .limit = limit});
      if (answer || !again) break;
      // Both rounds share one timeout.
      limit = http_.dependency().config().timeout - (clock_.Now() - asked);
      if (limit <= Duration::zero()) break;
    }
    Wipe(body);
    const auto failure = answer ? std::nullopt : FailureOf(answer.error());
    metrics_
        .Counter("nova_secrets_requests_total", "Requests to Secrets Manager, by operation and result.",
                 {{"operation", operation},
                  {"result", answer    ? "ok"
                             : failure ? FailureName(*failure)
                                       : "other"}})
        .Increment();
    metrics_
        .Histogram("nova_secrets_request_seconds", "Time of a request to Secrets Manager, its tries included.",
                   telemetry::kLatencyBuckets, {{"operation", operation}})
        .Observe(std::chrono::duration<double>(clock_.Now() - begin).count());
    co_return answer;
  }

 private:
  Task<json::object> Try(Attempt& attempt, const std::string& operation, const std::string& body,
                         const CredentialsHandle& credentials, bool& again) {
    again = false;
    http::Request request{.method = "POST", .path = "/", .body = body};
    request.headers.Add("Host", origin_.Authority());
    request.headers.Add("Content-Type", kContentType);
    request.headers.Add("X-Amz-Target", std::string(kTarget) + operation);
    const Duration skew = skew_;
    Sign(request, *credentials, scope_, clock_.WallNow() + skew);
    auto exchanged = co_await http_.Exchange(attempt, origin_, request);
    Wipe(request.body);
    // It says so of nothing else than what it received.
    if (!exchanged && exchanged.error().code() == Code::kResourceExhausted)
      co_return BadAnswer("it is larger than that of a secret can be");
    NOVA_CO_TRY(http::Response response, std::move(exchanged));
    if (response.status == 200) {
      auto read = ReadAnswer(response);
      Wipe(response.body);
      co_return read;
    }
    const Refusal refusal = ReadRefusal(response, operation);
    Wipe(response.body);
    if (refusal.error.code() == Code::kUnauthenticated) {
      const bool may_be_skew = MayBeSkew(refusal.code);
      const bool corrected = may_be_skew && CorrectClock(response, skew);
      if (!corrected) credentials_.Refused(credentials);
      again = corrected || !may_be_skew;
    }
    if (refusal.is_throttling) attempt.SetPushBack({.wait = kThrottlePause});
    co_return refusal.error;
  }

  static Result<json::object> ReadAnswer(const http::Response& response) {
    auto object = auth::ParseStrictObject(response.body, auth::WipedStorage());
    if (!object) return BadAnswer("it is not one JSON object");
    return object;
  }

  struct Refusal {
    std::string code;
    Error error;
    bool is_throttling = false;
  };

  static Refusal ReadRefusal(const http::Response& response, std::string_view operation) {
    std::string code(response.headers.Get("X-Amzn-ErrorType"));
    std::string said;
    if (const auto object = auth::ParseStrictObject(response.body); object) {
      if (std::string type = TextOf(*object, "__type"); !type.empty()) code = std::move(type);
      said = TextOf(*object, "message");
      if (said.empty()) said = TextOf(*object, "Message");
    }
    code = PlainName(BareCode(code));
    std::string detail = "HTTP " + std::to_string(response.status) + (code.empty() ? "" : ", " + code);
    if (const std::string id = PlainName(std::string(response.headers.Get("X-Amzn-RequestId"))); !id.empty())
      detail += ", request " + id;
    // AWS' words about a secret or a permission name it and say what is missing. Those about a signature repeat what
    // was signed, the session's token included; those about a parameter may repeat that.
    const std::string words = said.empty() ? std::string() : ": " + OneLine(said);

    if (code == "ResourceExistsException") return {code, AlreadyExists("it exists already", detail)};
    if (code == "LimitExceededException")
      return {code, Fail(Failure::kThrottled, "Secrets Manager: a quota of the account is used up", detail + words)};
    if (IsBadParameter(code)) {
      if (operation == kGet)
        return {code, Fail(Failure::kNotFound, "Secrets Manager: there can be no secret, version or stage of that name",
                           detail + words)};
      const bool held_value = operation == kPut || operation == kCreate;
      return {code,
              InvalidArgument("Secrets Manager: a parameter is not accepted", held_value ? detail : detail + words)};
    }
    const auto known = std::ranges::find(kCodes, code, &KnownCode::code);
    if (known == std::end(kCodes)) {
      if (response.status == 429)
        return {code, Fail(Failure::kThrottled, "Secrets Manager: too many requests", detail), true};
      if (response.status >= 500) return {code, Fail(Failure::kNetwork, "Secrets Manager: the service failed", detail)};
      if (code.empty())
        return {code,
                Internal("what answers is not Secrets Manager; is AWS_ENDPOINT_URL_SECRETS_MANAGER right?", detail)};
      return {code, Internal("Secrets Manager refused the request", detail)};
    }
    switch (known->failure) {
      case Failure::kAccessDenied:
        if (said.contains(kKmsDenies))
          return {code, Fail(Failure::kDecryptionFailed, "Secrets Manager: KMS does not allow this identity its key",
                             detail + words)};
        [[fallthrough]];
      case Failure::kNotFound:
      case Failure::kDecryptionFailed:
        detail += words;
        break;
      default:
        break;
    }
    return {code, Fail(known->failure, "Secrets Manager: " + std::string(known->says), detail),
            known->failure == Failure::kThrottled};
  }

  // True if our clock was found to be off by more than what the request was corrected by.
  bool CorrectClock(const http::Response& response, Duration skew) {
    const auto theirs = DateOf(response);
    if (!theirs) return false;
    const Duration offset = *theirs - clock_.WallNow();
    if (std::chrono::abs(offset - skew) < kSkewMin) return false;
    // Others that were under way find out the same; one says so.
    if (std::chrono::abs(offset - skew_.exchange(offset)) >= kSkewMin)
      telemetry::LogWarn("the clock of this machine differs from that of AWS; signatures use theirs",
                         {{"seconds", std::chrono::duration_cast<seconds>(offset).count()}});
    return true;
  }

  telemetry::Metrics& metrics_;
  CredentialsProvider& credentials_;
  const Clock& clock_;
  const SigningScope scope_;
  const http::Origin origin_;
  const http::Client http_;
  // What is to be added to our clock.
  std::atomic<Duration> skew_{Duration::zero()};
};

SecretsApi::SecretsApi(telemetry::Metrics& metrics, resilience::HttpDependency& dependency,
                       CredentialsProvider& credentials, const ApiConfig& config, const Clock& clock)
    : impl_(std::make_unique<Impl>(metrics, dependency, credentials, config, clock)) {}
SecretsApi::~SecretsApi() = default;

Task<SecretValue> SecretsApi::Fetch(Call& call, std::string id, std::string version, bool version_is_id) {
  json::object request{{"SecretId", id}};
  request[version_is_id ? "VersionId" : "VersionStage"] = version;
  NOVA_CO_TRY(const json::object answer, co_await impl_->Invoke(call, kGet, std::move(request), Idempotency::kSafe));
  co_return ReadValue(answer);
}

Task<void> SecretsApi::Put(Call& call, NewVersion version) {
  json::object request(auth::WipedStorage());
  request["SecretId"] = version.secret_id;
  request["ClientRequestToken"] = version.token;
  request["SecretString"] = version.value.Expose();
  if (!version.stages.empty()) request["VersionStages"] = json::array(version.stages.begin(), version.stages.end());
  NOVA_CO_TRY(co_await impl_->Invoke(call, kPut, std::move(request), Idempotency::kKeyed));
  co_return Ok();
}

Task<void> SecretsApi::MoveStage(Call& call, std::string secret_id, std::string stage, std::string to,
                                 std::string from) {
  json::object request{{"SecretId", secret_id}, {"VersionStage", stage}};
  if (!to.empty()) request["MoveToVersionId"] = to;
  if (!from.empty()) request["RemoveFromVersionId"] = from;
  NOVA_CO_TRY(co_await impl_->Invoke(call, kMove, std::move(request), Idempotency::kNone));
  co_return Ok();
}

Task<void> SecretsApi::CreateSecret(Call& call, NewVersion version) {
  json::object request(auth::WipedStorage());
  request["Name"] = version.secret_id;
  if (!version.value.empty()) {
    request["ClientRequestToken"] = version.token;
    request["SecretString"] = version.value.Expose();
  }
  NOVA_CO_TRY(co_await impl_->Invoke(call, kCreate, std::move(request), Idempotency::kKeyed));
  co_return Ok();
}

}  // namespace nova::secrets
