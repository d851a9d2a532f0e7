#include "nova/runtime/trace.h"

#include <algorithm>
#include <random>
#include <span>

namespace nova::runtime {
namespace {

// Trace ids need to be unique, not secret: a per-thread generator costs nanoseconds where the kernel costs a call.
void FillRandom(std::span<std::uint8_t> out) {
  thread_local std::mt19937_64 generator = [] {
    std::random_device device;
    std::seed_seq seed{device(), device(), device(), device()};
    return std::mt19937_64(seed);
  }();
  std::uint64_t bits = 0;
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (i % 8 == 0) bits = generator();
    out[i] = static_cast<std::uint8_t>(bits >> (8 * (i % 8)));
  }
}

void AppendHex(std::string& out, std::span<const std::uint8_t> bytes) {
  static constexpr char kHex[] = "0123456789abcdef";
  for (const std::uint8_t byte : bytes) {
    out.push_back(kHex[byte >> 4]);
    out.push_back(kHex[byte & 0x0f]);
  }
}

// The specification allows lower case only.
bool ReadHex(std::string_view text, std::span<std::uint8_t> out) {
  const auto value = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return -1;
  };
  for (std::size_t i = 0; i < out.size(); ++i) {
    const int high = value(text[2 * i]);
    const int low = value(text[2 * i + 1]);
    if (high < 0 || low < 0) return false;
    out[i] = static_cast<std::uint8_t>(high << 4 | low);
  }
  return true;
}

bool AllZero(std::span<const std::uint8_t> bytes) {
  return std::ranges::all_of(bytes, [](std::uint8_t b) { return b == 0; });
}

}  // namespace

TraceContext TraceContext::New() {
  TraceContext trace;
  FillRandom(trace.trace_id);
  FillRandom(trace.span_id);
  return trace;
}

std::optional<TraceContext> TraceContext::Parse(std::string_view traceparent) {
  // version "-" trace-id "-" parent-id "-" flags; a later version may append more after another hyphen.
  constexpr std::size_t kLength = 55;
  if (traceparent.size() < kLength || traceparent[2] != '-' || traceparent[35] != '-' || traceparent[52] != '-')
    return std::nullopt;
  std::array<std::uint8_t, 1> version{};
  std::array<std::uint8_t, 1> flags{};
  TraceContext trace;
  if (!ReadHex(traceparent.substr(0, 2), version) || !ReadHex(traceparent.substr(3, 32), trace.trace_id) ||
      !ReadHex(traceparent.substr(36, 16), trace.span_id) || !ReadHex(traceparent.substr(53, 2), flags))
    return std::nullopt;
  if (version[0] == 0xff || AllZero(trace.trace_id) || AllZero(trace.span_id)) return std::nullopt;
  if (version[0] == 0 && traceparent.size() != kLength) return std::nullopt;
  if (traceparent.size() > kLength && traceparent[kLength] != '-') return std::nullopt;
  trace.sampled = (flags[0] & 1) != 0;
  return trace;
}

TraceContext TraceContext::Child() const {
  TraceContext child = *this;
  FillRandom(child.span_id);
  return child;
}

std::string TraceContext::ToTraceparent() const {
  std::string text = "00-";
  text.reserve(55);
  AppendHex(text, trace_id);
  text.push_back('-');
  AppendHex(text, span_id);
  text.append(sampled ? "-01" : "-00");
  return text;
}

std::string TraceContext::TraceId() const {
  std::string text;
  text.reserve(32);
  AppendHex(text, trace_id);
  return text;
}

}  // namespace nova::runtime
