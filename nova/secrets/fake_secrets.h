// A SecretManager for tests that holds the versions of one secret and moves their labels as AWS does.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "nova/runtime/runtime.h"
#include "nova/secrets/secret_manager.h"

namespace nova::secrets {

// Thread-safe.
class FakeSecrets final : public SecretManager {
 public:
  // Called before each read, on whatever thread reads; its error is the read's. May move labels.
  using Hook = std::function<Result<void>(std::string_view stage)>;

  // A version without a label.
  void Add(const std::string& version, Secret<> value, WallTime created_at) {
    auto made = std::make_shared<SecretValue>();
    made->value = std::move(value);
    made->version_id = version;
    made->created_at = created_at;
    std::lock_guard lock(mutex_);
    versions_[version] = std::move(made);
  }
  // An empty version takes the label away.
  void Label(std::string_view stage, const std::string& version) {
    std::lock_guard lock(mutex_);
    labels_[std::string(stage)] = version;
  }
  // What was CURRENT becomes PREVIOUS, as AWS has it.
  void MakeCurrent(const std::string& version) {
    std::lock_guard lock(mutex_);
    std::string& current = labels_[std::string(kCurrent)];
    if (current != version) labels_[std::string(kPrevious)] = std::exchange(current, version);
  }
  std::string Labelled(std::string_view stage) const {
    std::lock_guard lock(mutex_);
    const auto found = labels_.find(std::string(stage));
    return found == labels_.end() ? std::string() : found->second;
  }
  void BeforeRead(Hook hook) {
    std::lock_guard lock(mutex_);
    hook_ = std::move(hook);
  }
  // From now on reads end with their call; `reached` is set by the first.
  void HangUntilCancelled(std::atomic<bool>* reached) {
    std::lock_guard lock(mutex_);
    hangs_ = reached;
  }
  // The stages read so far.
  std::vector<std::string> reads() const {
    std::lock_guard lock(mutex_);
    return reads_;
  }

  runtime::Task<SecretHandle> Refresh(runtime::Call& call, std::string_view, Version version) override {
    Hook hook;
    std::atomic<bool>* hangs = nullptr;
    {
      std::lock_guard lock(mutex_);
      reads_.emplace_back(version.text());
      hook = hook_;
      hangs = hangs_;
    }
    if (hangs != nullptr) {
      hangs->store(true);
      NOVA_CO_TRY(co_await runtime::Sleep(call, std::chrono::hours(1)));
    }
    if (hook) NOVA_CO_TRY(hook(version.text()));
    std::lock_guard lock(mutex_);
    const auto labelled = labels_.find(std::string(version.text()));
    const auto found = labelled == labels_.end() ? versions_.end() : versions_.find(labelled->second);
    if (found == versions_.end()) co_return Fail(Failure::kNotFound, "no such version");
    co_return found->second;
  }

  runtime::Task<SecretHandle> GetSecret(runtime::Call& call, std::string_view id, Version version) override {
    return Refresh(call, id, version);
  }
  runtime::Task<auth::JwtConfig> GetJwtConfig(runtime::Call&, std::string_view, Version) override {
    co_return Internal("not part of this fake");
  }
  void Invalidate(std::string_view) override {}
  void InvalidateAll() override {}
  CacheStats Stats() const override { return {}; }
  Result<void> Close(Duration) override { return Ok(); }

 private:
  mutable std::mutex mutex_;
  std::map<std::string, SecretHandle> versions_;  // guarded by mutex_
  std::map<std::string, std::string> labels_;     // guarded by mutex_
  std::vector<std::string> reads_;                // guarded by mutex_
  Hook hook_;                                     // guarded by mutex_
  std::atomic<bool>* hangs_ = nullptr;            // guarded by mutex_
};

}  // namespace nova::secrets
