// W3C Trace Context (https://www.w3.org/TR/trace-context/): who called whom, across processes.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace nova::runtime {

struct TraceContext {
  std::array<std::uint8_t, 16> trace_id{};
  std::array<std::uint8_t, 8> span_id{};
  bool sampled = false;

  // A new trace with a random id.
  static TraceContext New();
  // The value of a `traceparent` header; nothing if it is malformed, in which case a new trace is begun.
  static std::optional<TraceContext> Parse(std::string_view traceparent);

  // The same trace, a new span: what is sent to the next hop.
  TraceContext Child() const;
  // "00-<trace id>-<span id>-<flags>", 55 characters.
  std::string ToTraceparent() const;
  // 32 hexadecimal characters, as the log prints it.
  std::string TraceId() const;
};

}  // namespace nova::runtime
