// For the tests of this folder: an endpoint of AWS on loopback that answers as it is told, for faults that moto cannot
// be made to show. What it was asked is kept.
#pragma once

#include <functional>
#include <gtest/gtest.h>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "nova/http/server.h"

namespace nova::secrets {

class FakeAws {
 public:
  // `number`: of the request, from 0.
  using Answer = std::function<http::Response(const http::Request& request, std::size_t number)>;

  explicit FakeAws(runtime::Runtime& runtime, std::vector<std::pair<std::string, std::string>> routes = {{"POST", "/"}})
      : server_(runtime, {.header_bytes_max = 64 * 1024, .connections_max = 20'000}) {
    for (const auto& [method, path] : routes) {
      server_.Handle(method, path,
                     [this](runtime::Call& call, const http::Request& request) { return Serve(call, request); });
    }
    EXPECT_TRUE(server_.Start());
  }
  ~FakeAws() { EXPECT_TRUE(server_.Stop(std::chrono::seconds(5))); }

  void Answers(Answer answer) {
    std::lock_guard lock(mutex_);
    answer_ = std::move(answer);
  }
  // Requests hang until their call ends.
  void Hangs(bool hangs) {
    std::lock_guard lock(mutex_);
    hangs_ = hangs;
  }

  std::string endpoint() const { return "http://127.0.0.1:" + std::to_string(server_.port()); }
  std::vector<http::Request> requests() const {
    std::lock_guard lock(mutex_);
    return requests_;
  }
  std::size_t count() const { return requests().size(); }

 private:
  runtime::Task<http::Response> Serve(runtime::Call& call, const http::Request& request) {
    Answer answer;
    std::size_t number = 0;
    bool hangs = false;
    {
      std::lock_guard lock(mutex_);
      number = requests_.size();
      requests_.push_back(request);
      answer = answer_;
      hangs = hangs_;
    }
    if (hangs) NOVA_CO_TRY(co_await runtime::Sleep(call, std::chrono::hours(1)));
    co_return answer ? answer(request, number) : http::Response{.status = 500};
  }

  mutable std::mutex mutex_;
  Answer answer_;                        // guarded by mutex_
  bool hangs_ = false;                   // guarded by mutex_
  std::vector<http::Request> requests_;  // guarded by mutex_
  http::Server server_;
};

}  // namespace nova::secrets
