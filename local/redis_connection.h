// A blocking connection for the few commands of the supervisor: whether Redis is ready, and that its certificate was
// renewed. Services use nova/redis instead; nothing here may run on a runtime's thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "nova/base/clock.h"
#include "nova/base/result.h"
#include "nova/base/secret.h"

namespace nova::local {

struct RedisTarget {
  int port = 0;  // on 127.0.0.1
  std::string user;
  Secret<> password;
  // The authority that the server's certificate must chain to, and the DNS name that it must carry.
  std::filesystem::path ca_file;
  std::string server_name;
};

struct RedisReply {
  bool nil = false;
  std::int64_t integer = 0;
  // Of a text or a status.
  std::string text;
  std::vector<RedisReply> elements;
};

// Used by one thread at a time.
class RedisConnection {
 public:
  static constexpr Duration kConnectLimit = std::chrono::seconds(5);
  static constexpr Duration kCommandLimit = std::chrono::seconds(5);

  // TCP, TLS 1.3, AUTH. Errors: UNAVAILABLE when nobody answers, or not with a certificate of that authority and name;
  // UNAUTHENTICATED when the server refuses this user; DEADLINE_EXCEEDED after `limit`.
  static Result<RedisConnection> Open(const RedisTarget& target, Duration limit = kConnectLimit);

  RedisConnection(RedisConnection&&) noexcept;
  RedisConnection& operator=(RedisConnection&&) noexcept;
  ~RedisConnection();

  // Errors, with the server's words where they are its own: UNAVAILABLE while it loads its data or is busy, or when the
  // connection is lost; UNAUTHENTICATED; PERMISSION_DENIED when the user may not do this; INTERNAL for its other
  // refusals; DEADLINE_EXCEEDED after `limit`, and the connection is of no use afterwards.
  Result<RedisReply> Execute(const std::vector<std::string>& arguments, Duration limit = kCommandLimit);

 private:
  struct State;
  explicit RedisConnection(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace nova::local
