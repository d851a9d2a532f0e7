#include "audit/token_load.h"

#include <algorithm>
#include <boost/json/parse.hpp>
#include <utility>

#include "nova/auth/base64url.h"

namespace nova::audit {
namespace {

namespace json = boost::json;
using runtime::Call;
using runtime::Task;

constexpr Duration kDeadline = std::chrono::seconds(5);
constexpr Duration kLookAgain = std::chrono::milliseconds(5);

}  // namespace

Result<std::string> KidOf(const Secret<>& token) {
  const std::string& text = token.Expose();
  const auto header = auth::Base64UrlDecode(std::string_view(text).substr(0, text.find('.')));
  boost::system::error_code error;
  const json::value parsed = json::parse(header.value_or(""), error);
  const json::object* const object = error ? nullptr : parsed.if_object();
  const json::value* const kid = object == nullptr ? nullptr : object->if_contains("kid");
  if (kid == nullptr || !kid->is_string()) return InvalidArgument("an access token names no key");
  return std::string(kid->get_string());
}

TokenLoad::TokenLoad(runtime::Runtime& runtime, std::vector<Source> sources, std::vector<Use> uses)
    : sources_(std::move(sources)), uses_(std::move(uses)) {
  for (const Source& source : sources_) {
    works_.push_back(
        {.name = source.name,
         .callers = std::make_unique<Callers>(runtime, Callers::Config{.deadline = kDeadline, .pause = source.pause},
                                              [this, &source](Call& call) { return Get(call, source); })});
  }
  for (const Use& use : uses_) {
    works_.push_back({.name = use.name,
                      .callers = std::make_unique<Callers>(
                          runtime, Callers::Config{.count = use.callers, .deadline = kDeadline, .pause = use.pause},
                          [this, &use](Call& call) { return UseOne(call, use); })});
  }
}

TokenLoad::~TokenLoad() { (void)Stop(); }

Task<void> TokenLoad::Get(Call& call, const Source& source) {
  NOVA_CO_TRY(Secret<> token, co_await source.get(call));
  NOVA_CO_TRY(const std::string kid, KidOf(token));
  const std::lock_guard lock(mutex_);
  const auto [of_key, is_first] = by_key_.try_emplace(kid);
  if (is_first) of_key->second.first = Clock::System().Now();
  ++of_key->second.tokens;
  if (!of_key->second.is_retired) tokens_.push_back({.kid = kid, .text = std::move(token)});
  co_return Ok();
}

std::optional<Secret<>> TokenLoad::Pick() {
  const std::lock_guard lock(mutex_);
  if (tokens_.empty()) return std::nullopt;
  return tokens_[std::uniform_int_distribution<std::size_t>(0, tokens_.size() - 1)(random_)].text;
}

Task<void> TokenLoad::UseOne(Call& call, const Use& use) {
  // Only the first moments are without a token.
  std::optional<Secret<>> token = Pick();
  while (!token) {
    NOVA_CO_TRY(co_await runtime::Sleep(call, kLookAgain));
    token = Pick();
  }
  co_return co_await use.use(call, *token);
}

bool TokenLoad::IsReady() const {
  return std::ranges::all_of(works_, [](const Work& work) { return work.callers->seen().answered > 0; });
}

std::optional<SteadyTime> TokenLoad::FirstOf(const std::string& kid) const {
  const std::lock_guard lock(mutex_);
  const auto found = by_key_.find(kid);
  if (found == by_key_.end() || found->second.tokens == 0) return std::nullopt;
  return found->second.first;
}

void TokenLoad::Retire(const std::string& kid) {
  const std::lock_guard lock(mutex_);
  by_key_[kid].is_retired = true;
  std::erase_if(tokens_, [&](const Token& token) { return token.kid == kid; });
}

TokenLoad::Seen TokenLoad::seen() const {
  Seen sum;
  for (const Work& work : works_) {
    const Callers::Seen seen = work.callers->seen();
    sum.calls += seen.calls;
    sum.failed += seen.calls - seen.answered;
    sum.slowest = std::max(sum.slowest, seen.slowest);
    if (sum.first_failure.empty() && !seen.first_failure.empty())
      sum.first_failure = work.name + ": " + seen.first_failure;
  }
  const std::lock_guard lock(mutex_);
  for (const auto& [kid, of_key] : by_key_) {
    if (of_key.tokens > 0) sum.by_key[kid] = of_key.tokens;
    sum.tokens += of_key.tokens;
  }
  return sum;
}

TokenLoad::Seen TokenLoad::Stop() {
  for (const Work& work : works_) (void)work.callers->Stop();
  return seen();
}

}  // namespace nova::audit
