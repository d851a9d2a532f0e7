// What one check saw.
#pragma once

#include <string>
#include <utility>

#include "audit/report.h"

namespace nova::audit {

struct Finding {
  Row::Status status = Row::Status::kNotMeasured;
  std::string value = {};
  // Added to the check's own description of how it is measured: figures behind the value, or what went wrong.
  std::string note = {};

  static Finding Judge(bool pass, std::string value, std::string note = {}) {
    return {pass ? Row::Status::kPass : Row::Status::kFail, std::move(value), std::move(note)};
  }
  static Finding NotMeasured(std::string why) { return {Row::Status::kNotMeasured, {}, std::move(why)}; }
};

}  // namespace nova::audit
