// What goes over the wire: commands formatted, replies parsed (RESP2). Both by hiredis, under limits of ours.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "nova/base/result.h"
#include "nova/redis/reply.h"

struct redisReader;
struct redisReadTask;

namespace nova::redis {

// A line (a status, an error, a length) without an end within so many bytes is no RESP.
inline constexpr std::size_t kLineBytesMax = 64 * 1024;

// The command as it is sent. Precondition: it has an argument, and its size is within ClientConfig::queued_bytes_max.
std::string Format(std::span<const std::string_view> arguments);
std::string Format(const Command& command);

// At least the number of bytes that Format would return; cheap.
std::int64_t WireBytesMax(const Command& command);

// Cuts a stream of bytes into replies. Confined to one strand.
class Parser {
 public:
  // `reply_bytes_max`: a reply's texts, and the memory of its elements.
  explicit Parser(std::int64_t reply_bytes_max);
  ~Parser();
  Parser(const Parser&) = delete;
  Parser& operator=(const Parser&) = delete;

  // Errors: UNAVAILABLE if there was an error before.
  Result<void> Feed(std::string_view bytes);

  // The next reply, if all of it has come. Errors: UNAVAILABLE if this is not RESP, or if the reply is, or says it will
  // be, larger than the limit; nothing is kept in memory for what it says. After an error the stream is lost.
  Result<std::optional<Reply>> Next();

 private:
  struct Callbacks;

  // The place for an object that hiredis has parsed; null if the reply has become too large.
  Reply* Place(const redisReadTask& task, std::int64_t bytes);
  // Looks at the head of an object that has not come completely.
  Result<void> CheckHead();
  Error TooLarge();

  const std::int64_t reply_bytes_max_;
  std::unique_ptr<redisReader, void (*)(redisReader*)> reader_;
  // The reply under construction, and what it takes.
  Reply root_;
  std::int64_t bytes_ = 0;
  bool too_large_ = false;
};

}  // namespace nova::redis
