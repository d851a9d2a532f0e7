#include "nova/secrets/lambda.h"

#include <algorithm>
#include <boost/json.hpp>
#include <charconv>
#include <chrono>
#include <utility>

#include "nova/base/clock.h"
#include "nova/telemetry/log.h"

namespace nova::secrets {
namespace {

namespace json = boost::json;
using resilience::Idempotency;
using runtime::Call;
using runtime::Task;
using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::minutes;

constexpr char kBase[] = "/2018-06-01/runtime/";
// Lambda freezes the process until there is an event.
constexpr Duration kPatience = hours(24 * 30);
// Lambda's own limit of a function's run.
constexpr milliseconds kRunMax = minutes(15);
// Lambda's own limit of an event and of an answer.
constexpr std::size_t kPayloadBytesMax = 6 * 1024 * 1024;
constexpr int kAccepted = 202;
// From here on Lambda wants the process to end.
constexpr int kBrokenForGood = 500;

std::string ErrorJson(const Error& error) {
  return json::serialize(json::object{{"errorType", CodeName(error.code())}, {"errorMessage", error.message()}});
}

// What is left for an invocation that ends at this time, in milliseconds since 1970.
Duration TimeLeft(std::string_view deadline_ms) {
  std::int64_t end = 0;
  const auto [rest, error] = std::from_chars(deadline_ms.data(), deadline_ms.data() + deadline_ms.size(), end);
  if (error != std::errc() || rest != deadline_ms.data() + deadline_ms.size() || end < 0) return kRunMax;
  // In milliseconds, of which there are not too many, whatever was sent.
  const auto now = std::chrono::floor<milliseconds>(Clock::System().WallNow()).time_since_epoch();
  return std::clamp<milliseconds>(milliseconds(end) - now, milliseconds::zero(), kRunMax);
}

class RuntimeApi {
 public:
  RuntimeApi(const http::Client& http, http::Origin origin) : http_(http), origin_(std::move(origin)) {}

  Task<http::Response> Next(Call& call) const {
    http::Request request{.method = "GET", .path = std::string(kBase) + "invocation/next"};
    // An event that was handed out is not handed out again to whoever repeats the question.
    co_return co_await http_.Send(call, origin_, std::move(request), Idempotency::kNone, kPatience);
  }

  // Yields the status. What is posted twice counts once.
  Task<int> PostAnswer(Call& call, const std::string& request_id, std::string answer) const {
    co_return co_await Post(call, {.path = "invocation/" + request_id + "/response", .body = std::move(answer)});
  }
  Task<int> PostError(Call& call, const std::string& request_id, const Error& error) const {
    co_return co_await Post(call, Failure("invocation/" + request_id + "/error", error));
  }
  Task<int> PostInitError(Call& call, const Error& error) const {
    co_return co_await Post(call, Failure("init/error", error));
  }

 private:
  static http::Request Failure(std::string path, const Error& error) {
    return {.path = std::move(path),
            .headers = {{"Lambda-Runtime-Function-Error-Type", "Nova." + std::string(CodeName(error.code()))}},
            .body = ErrorJson(error)};
  }

  Task<int> Post(Call& call, http::Request request) const {
    request.method = "POST";
    request.path = kBase + request.path;
    request.headers.Add("Content-Type", "application/json");
    NOVA_CO_TRY(const http::Response response,
                co_await http_.Send(call, origin_, std::move(request), Idempotency::kSafe));
    co_return response.status;
  }

  const http::Client& http_;
  const http::Origin origin_;
};

Result<RuntimeApi> Open(const http::Client& http, const std::string& runtime_api) {
  auto origin = http::ParseOrigin("http://" + runtime_api);
  if (!origin)
    return InvalidArgument("AWS_LAMBDA_RUNTIME_API: '" + runtime_api + "' is not host:port; Lambda sets it by itself");
  return RuntimeApi(http, *std::move(origin));
}

// An id becomes a part of a path, so it must be one.
bool IsRequestId(std::string_view id) {
  return !id.empty() && id.size() <= 128 && std::ranges::all_of(id, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-';
  });
}

Error NotTaken(int status) { return Unavailable("Lambda did not take the answer", "HTTP " + std::to_string(status)); }

// The handler's answer, within Lambda's limits.
Task<std::string> Answer(Call& call, const LambdaHandler& handler, const Invocation& invocation) {
  if (invocation.event.size() > kPayloadBytesMax) co_return ResourceExhausted("the event is larger than 6 MiB");
  NOVA_CO_TRY(std::string answer, co_await handler(call, invocation));
  if (answer.size() > kPayloadBytesMax) co_return ResourceExhausted("the answer is larger than 6 MiB");
  co_return answer;
}

}  // namespace

Task<void> ServeLambda(Call& call, const http::Client& http, std::string runtime_api, LambdaHandler handler) {
  NOVA_CO_TRY(const RuntimeApi api, Open(http, runtime_api));
  for (;;) {
    NOVA_CO_TRY(http::Response next, co_await api.Next(call));
    if (next.status != 200)
      co_return Unavailable("Lambda's runtime API has no event", "HTTP " + std::to_string(next.status));
    const Invocation invocation{.request_id = std::string(next.headers.Get("Lambda-Runtime-Aws-Request-Id")),
                                .event = std::move(next.body)};
    if (!IsRequestId(invocation.request_id)) co_return Unavailable("Lambda's runtime API gave an event without an id");
    Call limited(call, TimeLeft(next.headers.Get("Lambda-Runtime-Deadline-Ms")));
    Result<std::string> answer = co_await Answer(limited, handler, invocation);
    NOVA_CO_TRY(call.Check());
    Result<int> status;
    if (answer) {
      status = co_await api.PostAnswer(call, invocation.request_id, *std::move(answer));
    } else {
      telemetry::LogError("invocation failed", {{"request_id", invocation.request_id}, {"error", answer.error()}});
      status = co_await api.PostError(call, invocation.request_id, answer.error());
    }
    NOVA_CO_TRY(call.Check());
    if (status && *status == kAccepted) continue;
    const Error lost = status ? NotTaken(*status) : status.error();
    if (status && *status >= kBrokenForGood) co_return lost;
    // Lambda takes it for a failure and asks again; the steps may be repeated.
    telemetry::LogError("the answer was lost", {{"request_id", invocation.request_id}, {"error", lost}});
  }
}

Task<void> ReportInitError(Call& call, const http::Client& http, std::string runtime_api, Error error) {
  NOVA_CO_TRY(const RuntimeApi api, Open(http, runtime_api));
  NOVA_CO_TRY(const int status, co_await api.PostInitError(call, error));
  if (status != kAccepted) co_return NotTaken(status);
  co_return Ok();
}

}  // namespace nova::secrets
