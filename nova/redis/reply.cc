#include "nova/redis/reply.h"

#include <algorithm>
#include <array>
#include <span>
#include <utility>

namespace nova::redis {
namespace {

// Of the server's words in a detail: they may quote arguments, which may be long.
constexpr std::size_t kQuoteMax = 200;

// Errors that pass by themselves, or when another server takes over.
constexpr std::array<std::string_view, 9> kUnavailable = {
    "BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOMASTER", "NOREPLICAS", "READONLY", "TRYAGAIN"};
constexpr std::array<std::string_view, 3> kRefused = {"DENIED", "NOAUTH", "WRONGPASS"};

std::string_view KindName(Reply::Kind kind) {
  switch (kind) {
    case Reply::Kind::kNil:
      return "nil";
    case Reply::Kind::kInteger:
      return "an integer";
    case Reply::Kind::kText:
      return "a text";
    case Reply::Kind::kStatus:
      return "a status";
    case Reply::Kind::kError:
      return "an error";
    case Reply::Kind::kArray:
      return "an array";
  }
  std::unreachable();
}

Error Mismatch(const Reply& reply, std::string_view wanted) {
  if (reply.is_error()) return ToError(reply);
  return Internal("internal error",
                  "Redis replied " + std::string(KindName(reply.kind)) + " instead of " + std::string(wanted));
}

bool Contains(std::span<const std::string_view> names, std::string_view name) {
  return std::ranges::find(names, name) != names.end();
}

bool IsText(const Reply& reply) { return reply.kind == Reply::Kind::kText || reply.kind == Reply::Kind::kStatus; }

}  // namespace

std::string_view Reply::error_name() const {
  if (!is_error()) return {};
  return std::string_view(text).substr(0, text.find(' '));
}

Result<std::int64_t> Reply::Integer() const {
  if (kind != Kind::kInteger) return Mismatch(*this, "an integer");
  return integer;
}

Result<std::string> Reply::Text() const& {
  if (!IsText(*this)) return Mismatch(*this, "a text");
  return text;
}

Result<std::string> Reply::Text() && {
  if (!IsText(*this)) return Mismatch(*this, "a text");
  return std::move(text);
}

Result<std::vector<Reply>> Reply::Array() const& {
  if (kind != Kind::kArray) return Mismatch(*this, "an array");
  return elements;
}

Result<std::vector<Reply>> Reply::Array() && {
  if (kind != Kind::kArray) return Mismatch(*this, "an array");
  return std::move(elements);
}

Error ToError(const Reply& error) {
  const std::string_view name = error.error_name();
  std::string quote = "Redis: " + error.text.substr(0, kQuoteMax);
  if (Contains(kUnavailable, name)) return Unavailable("Redis is unavailable", std::move(quote));
  if (name == "OOM")
    return ResourceExhausted("Redis has no memory left", quote + "; raise its maxmemory, or let keys expire sooner");
  if (Contains(kRefused, name))
    return FailedPrecondition("Redis refused the service's user or password",
                              quote + "; check redis.user (NOVA_REDIS_USER) and NOVA_REDIS_PASSWORD");
  if (name == "NOPERM")
    return FailedPrecondition("Redis does not allow the service to do this",
                              quote + "; allow it in the ACL of redis.user (NOVA_REDIS_USER), or set another user");
  return Internal("internal error", std::move(quote));
}

}  // namespace nova::redis
