// Callers: calls that are made over and over in the background, as the users of a service make them, while something
// is done to it.
//
//   Callers readers(runtime, {.count = 24, .deadline = 2s, .pause = 100ms}, [&](Call& call) { return Read(call); });
//   ...
//   const Callers::Seen seen = readers.Stop();
#pragma once

#include <chrono>
#include <functional>
#include <mutex>
#include <optional>
#include <string>

#include "nova/base/clock.h"
#include "nova/base/result.h"
#include "nova/runtime/runtime.h"
#include "nova/runtime/scope.h"

namespace nova::audit {

// Used by one thread that is not the runtime's.
class Callers {
 public:
  using Work = std::function<runtime::Task<void>(runtime::Call&)>;

  struct Config {
    int count = 1;
    // Of each call.
    Duration deadline = std::chrono::seconds(2);
    // Of a caller, from the end of one call to the next.
    Duration pause = std::chrono::milliseconds(100);
  };

  // Of the calls that have ended.
  struct Seen {
    int calls = 0;
    int answered = 0;
    Duration slowest{};
    std::string first_failure = {};
  };

  Callers(runtime::Runtime& runtime, Config config, Work work);
  ~Callers();
  Callers(const Callers&) = delete;
  Callers& operator=(const Callers&) = delete;

  Seen seen() const;
  // When a call was answered last.
  std::optional<SteadyTime> last_answer() const;
  // Ends the calls under way, which then count for nothing, and makes no more.
  Seen Stop();

 private:
  runtime::Task<void> CallOverAndOver(runtime::Call& scope);
  void Note(const Result<void>& outcome, Duration took);

  const Config config_;
  const Work work_;
  mutable std::mutex mutex_;
  Seen seen_;                              // guarded by mutex_
  std::optional<SteadyTime> last_answer_;  // guarded by mutex_
  runtime::Scope scope_;
};

// One call in the background, and how long it takes.
class Timing {
 public:
  struct Ended {
    Result<void> outcome;
    Duration took{};
  };

  // `patience` becomes the call's deadline. `work` may refer to what lives as long as this object.
  Timing(runtime::Runtime& runtime, Duration patience, Callers::Work work);
  ~Timing();
  Timing(const Timing&) = delete;
  Timing& operator=(const Timing&) = delete;

  // Nothing while it is under way.
  std::optional<Ended> ended() const;

 private:
  mutable std::mutex mutex_;
  std::optional<Ended> ended_;  // guarded by mutex_
  runtime::Scope scope_;
};

}  // namespace nova::audit
