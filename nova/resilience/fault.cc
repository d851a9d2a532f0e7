#include "nova/resilience/fault.h"

#include <array>
#include <charconv>
#include <optional>
#include <system_error>
#include <utility>

namespace nova::resilience {
namespace {

using std::chrono::milliseconds;

constexpr const char* kUnderstood = "write, as many as apply, delay=0.2:250ms, error=0.1, abort=0.05, black_hole=0.01";
constexpr milliseconds kDelayMin{1};
constexpr milliseconds kDelayMax = std::chrono::minutes(10);
constexpr std::size_t kQuotedMax = 40;
// Shares such as 0.1, 0.2 and 0.7 have a sum that is 1 but for rounding.
constexpr double kRounding = 1e-9;

std::string_view Trim(std::string_view text) {
  while (text.starts_with(' ')) text.remove_prefix(1);
  while (text.ends_with(' ')) text.remove_suffix(1);
  return text;
}

// What a user wrote, fit for one line of a message.
std::string Quote(std::string_view text) {
  std::string quoted = "\"";
  for (const char c : text.substr(0, kQuotedMax)) {
    const auto byte = static_cast<unsigned char>(c);
    quoted.push_back(byte < 0x20 || byte == 0x7f ? '?' : c);
  }
  return quoted + (text.size() > kQuotedMax ? "...\"" : "\"");
}

template <class T>
std::optional<T> ParseNumber(std::string_view text) {
  T value{};
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end) return std::nullopt;
  return value;
}

std::optional<milliseconds> ParseDelay(std::string_view text) {
  int factor = 1;
  if (text.ends_with("ms")) {
    text.remove_suffix(2);
  } else if (text.ends_with("s")) {
    text.remove_suffix(1);
    factor = 1000;
  } else {
    return std::nullopt;
  }
  const auto count = ParseNumber<std::int64_t>(text);
  if (!count || *count < kDelayMin.count() || *count > kDelayMax.count() / factor) return std::nullopt;
  return milliseconds(*count * factor);
}

std::optional<Fault> FaultOf(std::string_view name) {
  for (const Fault fault : {Fault::kDelay, Fault::kError, Fault::kAbort, Fault::kBlackHole}) {
    if (name == FaultName(fault)) return fault;
  }
  return std::nullopt;
}

double& ShareOf(FaultPlan& plan, Fault fault) {
  switch (fault) {
    case Fault::kDelay:
      return plan.delay;
    case Fault::kError:
      return plan.error;
    case Fault::kAbort:
      return plan.abort;
    case Fault::kNone:
    case Fault::kBlackHole:
      break;
  }
  return plan.black_hole;
}

// One item of the text, such as "delay=0.2:250ms".
Result<Fault> ParseItem(std::string_view item, FaultPlan& plan) {
  const std::size_t equals = item.find('=');
  const std::optional<Fault> fault = FaultOf(Trim(item.substr(0, equals)));
  if (!fault || equals == std::string_view::npos) return InvalidArgument(Quote(item) + " is no fault; " + kUnderstood);

  std::string_view share_text = Trim(item.substr(equals + 1));
  std::optional<std::string_view> delay_text;
  if (const std::size_t colon = share_text.find(':'); colon != std::string_view::npos) {
    delay_text = Trim(share_text.substr(colon + 1));
    share_text = Trim(share_text.substr(0, colon));
  }
  const std::optional<double> share = ParseNumber<double>(share_text);
  // So that "not a number" is out of range, too.
  if (!share || !(*share >= 0 && *share <= 1))
    return InvalidArgument(Quote(item) + ": the share of calls must be a number from 0 to 1");

  if (*fault == Fault::kDelay) {
    if (!delay_text) return InvalidArgument(Quote(item) + " says not how long; write delay=0.2:250ms");
    const std::optional<milliseconds> delay = ParseDelay(*delay_text);
    if (!delay) return InvalidArgument(Quote(item) + ": the time must be from 1ms to 600s; write delay=0.2:250ms");
    plan.delay_time = *delay;
  } else if (delay_text) {
    return InvalidArgument(Quote(item) + ": only delay has a time");
  }
  ShareOf(plan, *fault) = *share;
  return *fault;
}

}  // namespace

const char* FaultName(Fault fault) {
  switch (fault) {
    case Fault::kNone:
      return "none";
    case Fault::kDelay:
      return "delay";
    case Fault::kError:
      return "error";
    case Fault::kAbort:
      return "abort";
    case Fault::kBlackHole:
      return "black_hole";
  }
  return "none";
}

Result<FaultPlan> FaultPlan::Parse(std::string_view text) {
  FaultPlan plan;
  if (Trim(text).empty()) return plan;
  std::array<bool, kFaultCount> seen{};
  for (bool last = false; !last;) {
    const std::size_t comma = text.find(',');
    last = comma == std::string_view::npos;
    const std::string_view item = Trim(text.substr(0, comma));
    if (!last) text.remove_prefix(comma + 1);
    NOVA_TRY(const Fault fault, ParseItem(item, plan));
    if (std::exchange(seen[static_cast<std::size_t>(fault)], true))
      return InvalidArgument(std::string(FaultName(fault)) + " stands twice; delete one of them");
  }
  if (plan.delay + plan.error + plan.abort + plan.black_hole > 1 + kRounding)
    return InvalidArgument("the shares together must be 1 at most: a call has one fate");
  return plan;
}

std::string FaultPlan::ToString() const {
  std::string text;
  const auto add = [&text](Fault fault, double share) {
    if (share == 0) return;
    std::array<char, 32> digits;
    const char* const end = std::to_chars(digits.data(), digits.data() + digits.size(), share).ptr;
    text.append(text.empty() ? "" : ", ")
        .append(FaultName(fault))
        .append("=")
        .append(digits.data(), static_cast<std::size_t>(end - digits.data()));
  };
  add(Fault::kDelay, delay);
  if (delay != 0) text += ":" + std::to_string(delay_time.count()) + "ms";
  add(Fault::kError, error);
  add(Fault::kAbort, abort);
  add(Fault::kBlackHole, black_hole);
  return text;
}

Fault FaultPlan::Draw(std::uint64_t random) const {
  // From 0 to 1, 1 excluded: a share of 1 is every call. A double holds 53 bits.
  double point = static_cast<double>(random >> 11) * 0x1p-53;
  if (point < delay) return Fault::kDelay;
  point -= delay;
  if (point < error) return Fault::kError;
  point -= error;
  if (point < abort) return Fault::kAbort;
  point -= abort;
  if (point < black_hole) return Fault::kBlackHole;
  return Fault::kNone;
}

}  // namespace nova::resilience
