#include "audit/verdict.h"

namespace nova::audit {

using Status = Row::Status;

Finding OnEveryService(const std::vector<ServiceTarget>& services,
                       const std::function<Verdict(const ServiceTarget&)>& judge) {
  if (services.empty()) return Finding::NotMeasured("no service is known");
  std::size_t passed = 0;
  Status status = Status::kPass;
  std::string notes;
  for (const ServiceTarget& service : services) {
    const Verdict verdict = judge(service);
    if (verdict.status == Status::kPass) {
      ++passed;
      continue;
    }
    // A failure says more than a doubt.
    if (status != Status::kFail) status = verdict.status;
    notes += (notes.empty() ? "" : "; ") + service.name + ": " + verdict.note;
  }
  return {status, std::to_string(passed) + " of " + std::to_string(services.size()), notes};
}

}  // namespace nova::audit
