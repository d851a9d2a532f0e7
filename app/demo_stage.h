// Stage: runs the steps of a scenario against a live stack, judges and records them. A step that goes another way than
// expected is a failed step, not an error.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "nova/rpc/client.h"
#include "nova/runtime/runtime.h"

namespace nova::app {

// What a step makes of an answer that came.
struct Verdict {
  bool as_expected = true;
  std::string words;
};

template <class Response>
using Judge = std::function<Verdict(const Response&)>;

struct Step {
  std::string what;
  bool passed = false;
  double milliseconds = 0;
  std::string observed;
};

struct StepOptions {
  Code expected = Code::kOk;
  const Secret<>* access_token = nullptr;
  // Asks again until it goes as expected, for this long: for what another service does by itself after an event.
  Duration appears_within = Duration::zero();
  // If set: the words in which it must be refused.
  std::string refused_in_words = {};
};

// Used by one task.
class Stage {
 public:
  // `shown`: called with every step when it is over.
  explicit Stage(std::function<void(const Step&)> shown) : shown_(std::move(shown)) {}

  // Errors: those of the call, expected or not; a scenario goes on from the expected ones.
  template <class Response, class Request>
  runtime::Task<Response> Do(runtime::Call& call, rpc::Client& client, rpc::UnaryMethod<Request, Response> method,
                             const Request& request, std::string what, StepOptions options = {},
                             Judge<Response> judge = {}) {
    const SteadyTime begin = Clock::System().Now();
    for (;;) {
      Result<Response> response =
          co_await client.Invoke(call, method, request, rpc::InvokeOptions{.access_token = options.access_token});
      // An unreachable stack is no failed promise; it ends the demo with an exit code of its own.
      if (!response && response.error().code() == Code::kUnavailable && steps_.empty()) co_return response;
      Step step{.what = what};
      Verdict verdict;
      if (response) verdict = judge ? judge(*response) : Verdict{.words = "OK"};
      Settle(step, response ? Result<void>() : Result<void>(response.error()), verdict, options);
      const Duration took = Clock::System().Now() - begin;
      if (!step.passed && took < options.appears_within) {
        NOVA_CO_TRY(co_await runtime::Sleep(call, kAskAgain));
        continue;
      }
      step.milliseconds = std::chrono::duration<double, std::milli>(took).count();
      steps_.push_back(step);
      shown_(step);
      co_return response;
    }
  }

  const std::vector<Step>& steps() const { return steps_; }

 private:
  static constexpr std::chrono::milliseconds kAskAgain{10};

  static void Settle(Step& step, const Result<void>& outcome, const Verdict& verdict, const StepOptions& options);

  const std::function<void(const Step&)> shown_;
  std::vector<Step> steps_;
};

}  // namespace nova::app
