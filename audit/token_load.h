// TokenLoad: access tokens as a busy stack has them: new ones all the time, and those of all ages used over and over,
// while the keys that sign them are replaced. Nobody may notice that.
//
//   TokenLoad load(runtime, {{.name = "Login", .pause = 2s, .get = ...}}, {{.name = "VerifyToken", .use = ...}});
//   ...                                  // once load.IsReady()
//   load.FirstOf(kid)                    // when a key signed for the first time
//   const TokenLoad::Seen seen = load.Stop();
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "audit/callers.h"
#include "nova/base/clock.h"
#include "nova/base/secret.h"
#include "nova/runtime/runtime.h"

namespace nova::audit {

// The name of the key that signed a token, as its header has it. Errors: INVALID_ARGUMENT; no part of the token is in
// it.
Result<std::string> KidOf(const Secret<>& token);

// Used by one thread that is not the runtime's.
class TokenLoad {
 public:
  // Where tokens come from: one call at a time.
  struct Source {
    std::string name;
    Duration pause{};
    std::function<runtime::Task<Secret<>>(runtime::Call&)> get;
  };
  // What they are used for; OK if it was answered, and rightly.
  struct Use {
    std::string name;
    int callers = 1;
    Duration pause{};
    std::function<runtime::Task<void>(runtime::Call&, const Secret<>&)> use;
  };

  // Of the calls that have ended, both kinds.
  struct Seen {
    int calls = 0;
    int failed = 0;
    int tokens = 0;
    // How many of the tokens, by the key that signed them.
    std::map<std::string, int> by_key;
    Duration slowest{};
    std::string first_failure;
  };

  // The functions must be callable until Stop.
  TokenLoad(runtime::Runtime& runtime, std::vector<Source> sources, std::vector<Use> uses);
  ~TokenLoad();
  TokenLoad(const TokenLoad&) = delete;
  TokenLoad& operator=(const TokenLoad&) = delete;

  // Every source has given a token, and every use was answered.
  bool IsReady() const;
  // When the first token came that this key signed.
  std::optional<SteadyTime> FirstOf(const std::string& kid) const;
  // From now on no token of this key is used.
  void Retire(const std::string& kid);
  Seen seen() const;
  // Ends the calls under way, which then count for nothing, and makes no more.
  Seen Stop();

 private:
  struct Token {
    std::string kid;
    Secret<> text;
  };
  struct OfKey {
    int tokens = 0;
    SteadyTime first;
    bool is_retired = false;
  };
  struct Work {
    std::string name;
    std::unique_ptr<Callers> callers;
  };

  runtime::Task<void> Get(runtime::Call& call, const Source& source);
  runtime::Task<void> UseOne(runtime::Call& call, const Use& use);
  // A token of any age; nothing before the first.
  std::optional<Secret<>> Pick();

  const std::vector<Source> sources_;
  const std::vector<Use> uses_;
  mutable std::mutex mutex_;
  std::vector<Token> tokens_;                    // guarded by mutex_: in use
  std::map<std::string, OfKey> by_key_;          // guarded by mutex_
  std::mt19937 random_{std::random_device{}()};  // guarded by mutex_
  std::vector<Work> works_;
};

}  // namespace nova::audit
