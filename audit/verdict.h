// One question to every service makes one finding.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "audit/audit.h"
#include "audit/finding.h"

namespace nova::audit {

struct Verdict {
  Row::Status status = Row::Status::kNotMeasured;
  std::string note = {};

  static Verdict Pass() { return {Row::Status::kPass, {}}; }
  static Verdict Fail(std::string why) { return {Row::Status::kFail, std::move(why)}; }
  static Verdict NotMeasured(std::string why) { return {Row::Status::kNotMeasured, std::move(why)}; }
};

// "n of m" services pass, with the notes of those that do not.
Finding OnEveryService(const std::vector<ServiceTarget>& services,
                       const std::function<Verdict(const ServiceTarget&)>& judge);

}  // namespace nova::audit
