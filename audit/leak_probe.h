// The check of the promise "Secrets" that looks for secrets, tokens and personal data where nobody may find them.
#pragma once

#include <vector>

#include "audit/audit.h"
#include "audit/finding.h"
#include "audit/leak_scan.h"
#include "audit/scraper.h"
#include "nova/runtime/runtime.h"

namespace nova::audit {

// Used by one thread that is not the runtime's.
class LeakProbe {
 public:
  // Both must outlive the probe.
  LeakProbe(runtime::Runtime& runtime, const AuditConfig& config);

  // A user signs up, works, makes every mistake, and goes; then everything that the stack keeps, what that user used
  // and `used_before` is looked for. Takes some seconds.
  Finding LeaksFound(const std::vector<Mark>& used_before);

 private:
  // Returns what must be found nowhere afterwards, and how many calls were refused.
  struct Scenario {
    std::vector<Mark> marks;
    int refused = 0;
  };
  Result<Scenario> Play();
  // What the stack keeps: files, and what the Secrets Manager has.
  Result<std::vector<Mark>> MarksOfStack();

  runtime::Runtime& runtime_;
  const AuditConfig& config_;
  Scraper scraper_;
};

}  // namespace nova::audit
