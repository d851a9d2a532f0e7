#include "audit/leak_probe.h"

#include <algorithm>
#include <iterator>
#include <string>
#include <utility>

#include "audit/account.h"
#include "audit/pace.h"
#include "audit/secrets_access.h"
#include "nova/runtime/scope.h"
#include "nova/telemetry/metrics.h"
#include "nova/tls/publisher.h"

namespace nova::audit {
namespace {

using runtime::Call;
using runtime::Task;
using std::chrono::seconds;

constexpr Duration kPlayLimit = seconds(20);
// For what is written a moment after its cause: events, and records that go through a queue.
constexpr Duration kAftermath = seconds(1);
// Leaks that are told; the rest is a number.
constexpr std::size_t kLeaksTold = 5;
// What an admin port says to whoever asks.
constexpr std::string_view kAdminPaths[] = {"/metrics", "/statusz", "/readyz", "/livez"};

std::string Kibibytes(std::uintmax_t bytes) { return std::to_string((bytes + 1023) / 1024) + " KiB"; }

}  // namespace

LeakProbe::LeakProbe(runtime::Runtime& runtime, const AuditConfig& config)
    : runtime_(runtime), config_(config), scraper_(runtime, config) {}

Result<LeakProbe::Scenario> LeakProbe::Play() {
  telemetry::Metrics metrics;  // nobody scrapes them
  NOVA_TRY(const auto publisher,
           tls::IdentityPublisher::Create({.files = config_.user_identity.files(), .usage = tls::Usage::kClient},
                                          Clock::System(), metrics));
  const tls::ChannelIdentity as(*publisher);
  NOVA_TRY(const auto account, Account::Create(runtime_, config_, as));
  NOVA_TRY(const int refused, runtime_.RunBlocking<int>(kPlayLimit, [&](Call& call) -> Task<int> {
    NOVA_CO_TRY(co_await account->Refresh(call));
    NOVA_CO_TRY(const Secret<> token, co_await account->Login(call));
    NOVA_CO_TRY(co_await account->VerifyToken(call, token));
    NOVA_CO_TRY(co_await account->ReadAccount(call, token));
    NOVA_CO_TRY(co_await account->ReadSettings(call, token));
    NOVA_CO_TRY(co_await account->ReadProfile(call, &token));
    co_return co_await account->MakeMistakes(call);
  }));
  return Scenario{.marks = account->marks(), .refused = refused};
}

Result<std::vector<Mark>> LeakProbe::MarksOfStack() {
  std::vector<Mark> marks;
  for (const auto& folder : config_.secret_folders) {
    NOVA_TRY(auto of_folder, MarksIn(folder));
    std::ranges::move(of_folder, std::back_inserter(marks));
  }
  if (!config_.secrets) return marks;
  marks.push_back({.what = "the secret access key", .value = config_.secrets->secret_access_key});
  marks.push_back({.what = "the id of the access key", .value = Secret<>(config_.secrets->access_key_id)});
  NOVA_TRY(const auto access, SecretsAccess::Open(runtime_, config_));
  NOVA_TRY(const auto keys, access->ReadKeys());
  for (const StoredKey& key : keys) {
    std::ranges::move(MarksOfPem("the signing key that is " + key.stage, key.config.signing_key.Expose()),
                      std::back_inserter(marks));
  }
  return marks;
}

Finding LeakProbe::LeaksFound(const std::vector<Mark>& used_before) {
  if (config_.logs.empty())
    return Finding::NotMeasured("nobody here knows the stack's logs: it is not a `nova up` of this host");
  Say(config_, "playing a user who makes mistakes, to see what is written about it");
  const auto played = Play();
  if (!played) return Finding::NotMeasured(played.error().ToString());
  if (played->refused == 0) return Finding::NotMeasured("no mistake was refused");
  const auto of_stack = MarksOfStack();
  if (!of_stack) return Finding::NotMeasured(of_stack.error().ToString());
  (void)AwaitCondition(runtime_, config_, kAftermath, [] { return false; });
  if (IsInterrupted(config_)) return Finding::NotMeasured("interrupted");

  LeakScan scan;
  for (const auto* marks : {&*of_stack, &played->marks, &used_before}) {
    for (const Mark& mark : *marks) (void)scan.Add(mark);
  }
  const auto planted = scan.TryOut();
  if (!planted) return Finding::NotMeasured(planted.error().ToString());
  Say(config_, "scanning the logs");
  auto logs = scan.ScanFolder(config_.logs);
  if (!logs) return Finding::NotMeasured(logs.error().ToString());
  if (logs->bytes == 0) return Finding::NotMeasured("there is nothing in the logs of " + config_.logs.string());
  std::size_t pages = 0;
  for (const ServiceTarget& service : config_.services) {
    for (const std::string_view path : kAdminPaths) {
      const auto page = scraper_.Get(service, std::string(path));
      if (!page) return Finding::NotMeasured(page.error().ToString());
      std::ranges::move(scan.Scan(std::string(path) + " of " + service.name, *page), std::back_inserter(logs->leaks));
      ++pages;
    }
  }

  std::string told;
  for (std::size_t i = 0; i < std::min(logs->leaks.size(), kLeaksTold); ++i) told += logs->leaks[i].ToString() + "; ";
  if (logs->leaks.size() > kLeaksTold) told += "and " + std::to_string(logs->leaks.size() - kLeaksTold) + " more; ";
  return Finding::Judge(logs->leaks.empty(), std::to_string(logs->leaks.size()),
                        told + std::to_string(logs->files) + " files of " + Kibibytes(logs->bytes) + " and " +
                            std::to_string(pages) + " pages; " + std::to_string(scan.size()) + " values, " +
                            std::to_string(played->refused) + " refused calls among what used them; all of " +
                            std::to_string(*planted) + " planted texts found");
}

}  // namespace nova::audit
