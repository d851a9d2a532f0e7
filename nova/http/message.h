// What the HTTP server and client exchange with their users: plain values, nothing of the library beneath.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace nova::http {

// Names compare without regard to case; order and duplicates are kept.
class Headers {
 public:
  Headers() = default;
  Headers(std::initializer_list<std::pair<std::string, std::string>> entries) : entries_(entries) {}

  void Add(std::string name, std::string value) { entries_.emplace_back(std::move(name), std::move(value)); }
  // The first value of that name; empty if there is none.
  std::string_view Get(std::string_view name) const;
  bool Has(std::string_view name) const;

  auto begin() const { return entries_.begin(); }
  auto end() const { return entries_.end(); }

 private:
  std::vector<std::pair<std::string, std::string>> entries_;
};

struct Request {
  // Upper case, as sent: "GET".
  std::string method = {};
  // The target up to "?", and what follows it; not decoded.
  std::string path = {};
  std::string query = {};
  Headers headers = {};
  std::string body = {};
};

struct Response {
  int status = 200;
  // Not to be set by a handler: Content-Length, Connection, Date, Content-Type (the member below).
  Headers headers = {};
  std::string content_type = "text/plain; charset=utf-8";
  std::string body = {};
};

}  // namespace nova::http
