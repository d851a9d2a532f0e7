#include "app/demo_stage.h"

namespace nova::app {

void Stage::Settle(Step& step, const Result<void>& outcome, const Verdict& verdict, const StepOptions& options) {
  const Code got = outcome ? Code::kOk : outcome.error().code();
  step.passed = got == options.expected && verdict.as_expected;
  if (outcome) {
    step.observed = verdict.words;
  } else {
    step.observed = std::string(CodeName(got)) + ": " + outcome.error().message();
    if (!options.refused_in_words.empty() && outcome.error().message() != options.refused_in_words) step.passed = false;
  }
  if (got != options.expected) step.observed += " (expected " + std::string(CodeName(options.expected)) + ")";
}

}  // namespace nova::app
