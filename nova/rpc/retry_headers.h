// The headers by which the hops of a chain share one allowance of retries: what is left of it goes down with a request,
// what was made of it comes back with the answer. So three hops in trouble make a few more calls between them, and not
// three times three times three as many.
#pragma once

#include <charconv>
#include <optional>
#include <string_view>

namespace nova::rpc {

// Retries that one request may cause in all, wherever along its chain, unless the hop above says that fewer are left.
inline constexpr int kRetriesPerRequest = 3;

// With a request: how many may be made yet, by the peer and by those below it.
inline constexpr char kRetriesLeftHeader[] = "nova-retries-left";
// With an answer: how many were made. Absent if none.
inline constexpr char kRetriesUsedHeader[] = "nova-retries-used";
// With an answer, gRPC's own: not before so many milliseconds; negative or no number: not at all.
inline constexpr char kRetryPushBackHeader[] = "grpc-retry-pushback-ms";

// Nothing if `text` is no whole number that T can hold.
template <class T>
std::optional<T> ParseNumber(std::string_view text) {
  T number{};
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc() || rest != end) return std::nullopt;
  return number;
}

}  // namespace nova::rpc
