#include "nova/auth/strict_json.h"

#include <boost/json/basic_parser_impl.hpp>
#include <boost/json/memory_resource.hpp>
#include <boost/json/value.hpp>
#include <boost/json/value_stack.hpp>
#include <cstdint>
#include <new>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "nova/base/secret.h"

namespace nova::auth {
namespace {

namespace json = boost::json;

// Builds the value as json::parse does, and remembers the names seen in every object that is still open.
class Handler {
 public:
  static constexpr std::size_t max_object_size = static_cast<std::size_t>(-1);
  static constexpr std::size_t max_array_size = static_cast<std::size_t>(-1);
  static constexpr std::size_t max_key_size = static_cast<std::size_t>(-1);
  static constexpr std::size_t max_string_size = static_cast<std::size_t>(-1);

  explicit Handler(json::storage_ptr storage) : storage_(std::move(storage)), stack_(storage_) {
    stack_.reset(storage_);
  }

  bool on_document_begin(json::error_code&) { return true; }
  bool on_document_end(json::error_code&) { return true; }
  bool on_object_begin(json::error_code&) {
    open_.emplace_back();
    return true;
  }
  bool on_object_end(std::size_t count, json::error_code&) {
    open_.pop_back();
    stack_.push_object(count);
    return true;
  }
  bool on_array_begin(json::error_code&) { return true; }
  bool on_array_end(std::size_t count, json::error_code&) {
    stack_.push_array(count);
    return true;
  }
  bool on_key_part(json::string_view part, std::size_t, json::error_code&) {
    key_.append(part.data(), part.size());
    stack_.push_chars(part);
    return true;
  }
  bool on_key(json::string_view last_part, std::size_t, json::error_code& error) {
    key_.append(last_part.data(), last_part.size());
    if (!open_.back().insert(std::exchange(key_, {})).second) {
      duplicate_ = true;
      error = json::error::syntax;
      return false;
    }
    stack_.push_key(last_part);
    return true;
  }
  bool on_string_part(json::string_view part, std::size_t, json::error_code&) {
    stack_.push_chars(part);
    return true;
  }
  bool on_string(json::string_view last_part, std::size_t, json::error_code&) {
    stack_.push_string(last_part);
    return true;
  }
  bool on_number_part(json::string_view, json::error_code&) { return true; }
  bool on_int64(std::int64_t value, json::string_view, json::error_code&) {
    stack_.push_int64(value);
    return true;
  }
  bool on_uint64(std::uint64_t value, json::string_view, json::error_code&) {
    stack_.push_uint64(value);
    return true;
  }
  bool on_double(double value, json::string_view, json::error_code&) {
    stack_.push_double(value);
    return true;
  }
  bool on_bool(bool value, json::error_code&) {
    stack_.push_bool(value);
    return true;
  }
  bool on_null(json::error_code&) {
    stack_.push_null();
    return true;
  }
  bool on_comment_part(json::string_view, json::error_code&) { return true; }
  bool on_comment(json::string_view, json::error_code&) { return true; }

  bool duplicate() const { return duplicate_; }
  json::value Release() { return stack_.release(); }

 private:
  const json::storage_ptr storage_;
  json::value_stack stack_;
  std::vector<std::set<std::string>> open_;
  std::string key_;
  bool duplicate_ = false;
};

// Boost gives memory back with another alignment than it asked for, but never asks for more than any type needs.
class WipedMemory final : public json::memory_resource {
  void* do_allocate(std::size_t bytes, std::size_t) override { return ::operator new(bytes); }
  void do_deallocate(void* data, std::size_t bytes, std::size_t) override {
    WipeMemory(data, bytes);
    ::operator delete(data);
  }
  bool do_is_equal(const json::memory_resource& other) const noexcept override { return this == &other; }
};

}  // namespace

json::storage_ptr WipedStorage() {
  static WipedMemory memory;
  return &memory;
}

Result<json::object> ParseStrictObject(std::string_view text, json::storage_ptr storage) {
  json::parse_options options;
  options.max_depth = kJsonDepthMax;
  json::basic_parser<Handler> parser(options, std::move(storage));
  json::error_code error;
  const std::size_t used = parser.write_some(false, text.data(), text.size(), error);
  if (parser.handler().duplicate()) return InvalidArgument("not strict JSON: a member stands twice");
  if (error || used != text.size()) return InvalidArgument("not JSON");
  json::value value = parser.handler().Release();
  if (!value.is_object()) return InvalidArgument("not a JSON object");
  return std::move(value.get_object());
}

}  // namespace nova::auth
