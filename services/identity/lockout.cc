#include "services/identity/lockout.h"

#include <chrono>
#include <string>
#include <utility>

#include "nova/telemetry/log.h"

namespace nova::identity {
namespace {

using postgres::ToStoredPrecision;
using runtime::Awaitable;
using runtime::Call;
using runtime::Task;

constexpr std::chrono::seconds kTakeBackLimit{1};

Bytes Subject(std::string_view kind, std::string_view name) {
  std::string text(kind);
  text.push_back('\0');
  text.append(name);
  return Sha256(text);
}

}  // namespace

Error TooManyAttempts() { return ResourceExhausted("too many attempts; try again later"); }

Bytes Lockout::OfIdentifier(std::string_view identifier) { return Subject("identifier", identifier); }
Bytes Lockout::OfDevice(Uuid device) { return Subject("device", device.ToString()); }
Bytes Lockout::OfSession(Uuid session) { return Subject("session", session.ToString()); }

Task<std::optional<Lockout::Attempt>> Lockout::Begin(Call& call, Bytes subject) {
  const WallTime now = ToStoredPrecision(clock_.WallNow());
  const LockoutCurve curve{
      .threshold = config_.lockout_threshold, .base = config_.lockout_base, .max = config_.lockout_max};
  NOVA_CO_TRY(const bool counted,
              co_await store_.CountFailure(call, subject, curve, now - config_.lockout_forget, now));
  if (!counted) co_return std::optional<Attempt>();
  co_return std::optional(Attempt{.subject = std::move(subject), .at = now});
}

Awaitable<void> Lockout::TakeBack(Call& call, Attempt attempt) {
  // The call may be what has ended.
  Call own(call.strand(), {.deadline = Clock::System().Now() + kTakeBackLimit, .trace = call.trace(), .peer = {}});
  const Result<void> done = co_await store_.TakeBackFailure(own, attempt.subject, attempt.at);
  if (!done) telemetry::LogWarn("an attempt without an outcome stays counted as a failure", {{"error", done.error()}});
}

}  // namespace nova::identity
