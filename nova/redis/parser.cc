#include "nova/redis/parser.h"

#include <algorithm>
#include <cassert>
#include <charconv>
#include <cstddef>
#include <hiredis/hiredis.h>
#include <utility>
#include <vector>

#include "nova/base/secret.h"

namespace nova::redis {
namespace {

// The length of a bulk string has no more characters than this.
constexpr std::size_t kLengthCharactersMax = 20;
// What RESP adds to an argument, or to a command, at most.
constexpr std::int64_t kFramingBytesMax = 32;

Error NotResp(std::string_view why) {
  return Unavailable("Redis is unavailable", "the peer does not speak RESP: " + std::string(why));
}

}  // namespace

std::string Format(std::span<const std::string_view> arguments) {
  std::vector<const char*> data;
  std::vector<std::size_t> sizes;
  data.reserve(arguments.size());
  sizes.reserve(arguments.size());
  for (const std::string_view argument : arguments) {
    data.push_back(argument.data());
    sizes.push_back(argument.size());
  }
  char* formatted = nullptr;
  const int size = redisFormatCommandArgv(&formatted, static_cast<int>(arguments.size()), data.data(), sizes.data());
  assert(size > 0 && "a command needs an argument, and has a limit");
  std::string wire(formatted, static_cast<std::size_t>(size));
  // It may be AUTH, with the password.
  WipeMemory(formatted, static_cast<std::size_t>(size));
  redisFreeCommand(formatted);
  return wire;
}

std::string Format(const Command& command) {
  const std::vector<std::string_view> arguments(command.arguments().begin(), command.arguments().end());
  return Format(arguments);
}

std::int64_t WireBytesMax(const Command& command) {
  std::int64_t bytes = kFramingBytesMax;
  for (const std::string& argument : command.arguments())
    bytes += static_cast<std::int64_t>(argument.size()) + kFramingBytesMax;
  return bytes;
}

// hiredis hands us each object as it is parsed and keeps only the pointer we return. Objects lie within the reply they
// belong to; a pointer into `elements` stays good for as long as hiredis needs it, because an array gets its next
// element only when the one before is complete.
struct Parser::Callbacks {
  static Reply* Make(const redisReadTask* task, Reply::Kind kind, std::int64_t bytes) {
    Reply* const reply = static_cast<Parser*>(task->privdata)->Place(*task, bytes);
    if (reply != nullptr) reply->kind = kind;
    return reply;
  }
  static void* String(const redisReadTask* task, char* text, std::size_t size) {
    const auto kind = task->type == REDIS_REPLY_ERROR    ? Reply::Kind::kError
                      : task->type == REDIS_REPLY_STATUS ? Reply::Kind::kStatus
                                                         : Reply::Kind::kText;
    Reply* const reply = Make(task, kind, static_cast<std::int64_t>(size));
    if (reply != nullptr) reply->text.assign(text, size);
    return reply;
  }
  static void* Array(const redisReadTask* task, int elements) {
    auto* const parser = static_cast<Parser*>(task->privdata);
    // What it announces must fit in, though memory is taken only for what comes.
    const std::int64_t announced = std::int64_t{elements} * static_cast<std::int64_t>(sizeof(Reply));
    if (announced > parser->reply_bytes_max_ - parser->bytes_) {
      parser->too_large_ = true;
      return nullptr;
    }
    return Make(task, Reply::Kind::kArray, 0);
  }
  static void* Integer(const redisReadTask* task, long long value) {
    Reply* const reply = Make(task, Reply::Kind::kInteger, 0);
    if (reply != nullptr) reply->integer = value;
    return reply;
  }
  static void* Nil(const redisReadTask* task) { return Make(task, Reply::Kind::kNil, 0); }
  static void Free(void*) {}  // the parser owns everything

  static redisReplyObjectFunctions* Table() {
    static redisReplyObjectFunctions table = {.createString = &String,
                                              .createArray = &Array,
                                              .createInteger = &Integer,
                                              .createNil = &Nil,
                                              .freeObject = &Free};
    return &table;
  }
};

Parser::Parser(std::int64_t reply_bytes_max)
    : reply_bytes_max_(reply_bytes_max), reader_(redisReaderCreateWithFunctions(Callbacks::Table()), &redisReaderFree) {
  reader_->privdata = this;
}

Parser::~Parser() = default;

Reply* Parser::Place(const redisReadTask& task, std::int64_t bytes) {
  bytes_ += bytes;
  if (task.parent != nullptr) bytes_ += static_cast<std::int64_t>(sizeof(Reply));
  if (bytes_ > reply_bytes_max_) {
    too_large_ = true;
    return nullptr;
  }
  if (task.parent == nullptr) return &root_;
  return &static_cast<Reply*>(task.parent->obj)->elements.emplace_back();
}

Error Parser::TooLarge() {
  return Unavailable("Redis is unavailable", "a reply is larger than redis.reply_bytes_max (" +
                                                 std::to_string(reply_bytes_max_) +
                                                 " bytes): ask for less at once, or raise NOVA_REDIS_REPLY_BYTES_MAX");
}

Result<void> Parser::Feed(std::string_view bytes) {
  if (redisReaderFeed(reader_.get(), bytes.data(), bytes.size()) != REDIS_OK) return NotResp(reader_->errstr);
  return Ok();
}

Result<std::optional<Reply>> Parser::Next() {
  void* object = nullptr;
  if (redisReaderGetReply(reader_.get(), &object) != REDIS_OK) {
    if (too_large_) return TooLarge();
    return NotResp(reader_->errstr);
  }
  if (object == nullptr) {
    NOVA_TRY(CheckHead());
    return std::optional<Reply>();
  }
  bytes_ = 0;
  return std::optional(std::exchange(root_, {}));
}

Result<void> Parser::CheckHead() {
  // hiredis stands behind the byte that tells the type of what it waits for.
  if (reader_->ridx < 0 || reader_->buf == nullptr) return Ok();
  const std::string_view rest(reader_->buf + reader_->pos, reader_->len - reader_->pos);
  if (reader_->rstack[reader_->ridx].type != REDIS_REPLY_STRING) {
    if (rest.size() > kLineBytesMax) return NotResp("a line does not end");
    return Ok();
  }
  const std::size_t end = rest.find('\r');
  if (end == std::string_view::npos) {
    if (rest.size() > kLengthCharactersMax) return NotResp("a length does not end");
    return Ok();
  }
  std::int64_t length = 0;
  const auto [stop, error] = std::from_chars(rest.data(), rest.data() + end, length);
  if (error == std::errc::result_out_of_range || length > reply_bytes_max_ - bytes_) return TooLarge();
  return Ok();
}

}  // namespace nova::redis
