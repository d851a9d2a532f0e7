#include "nova/resilience/bulkhead.h"

#include <cassert>
#include <utility>

namespace nova::resilience {

Bulkhead::Permit::Permit(Permit&& other) noexcept
    : bulkhead_(std::exchange(other.bulkhead_, nullptr)), orphaned_(std::exchange(other.orphaned_, false)) {}

Bulkhead::Permit& Bulkhead::Permit::operator=(Permit&& other) noexcept {
  if (this != &other) {
    Release();
    bulkhead_ = std::exchange(other.bulkhead_, nullptr);
    orphaned_ = std::exchange(other.orphaned_, false);
  }
  return *this;
}

Bulkhead::Permit::~Permit() { Release(); }

void Bulkhead::Permit::Orphan() {
  if (bulkhead_ == nullptr || std::exchange(orphaned_, true)) return;
  bulkhead_->orphaned_.fetch_add(1, std::memory_order_relaxed);
  bulkhead_->orphaned_gauge_.Increment();
}

void Bulkhead::Permit::Release() {
  Bulkhead* const bulkhead = std::exchange(bulkhead_, nullptr);
  if (bulkhead == nullptr) return;
  if (std::exchange(orphaned_, false)) {
    bulkhead->orphaned_.fetch_sub(1, std::memory_order_relaxed);
    bulkhead->orphaned_gauge_.Decrement();
  }
  bulkhead->in_use_gauge_.Decrement();
  // Last, and ordered after the rest: whoever sees the place free may destroy the bulkhead.
  bulkhead->in_use_.fetch_sub(1, std::memory_order_release);
}

Bulkhead::Bulkhead(int calls_max, prometheus::Gauge& in_use, prometheus::Gauge& orphaned)
    : calls_max_(calls_max), in_use_gauge_(in_use), orphaned_gauge_(orphaned) {}

Bulkhead::~Bulkhead() { assert(in_use_.load(std::memory_order_acquire) == 0); }

std::optional<Bulkhead::Permit> Bulkhead::TryAcquire() {
  int in_use = in_use_.load(std::memory_order_relaxed);
  do {
    if (in_use >= calls_max_) return std::nullopt;
  } while (!in_use_.compare_exchange_weak(in_use, in_use + 1, std::memory_order_acquire, std::memory_order_relaxed));
  // The gauge is moved rather than set, so that two who come at once cannot leave it at the older figure.
  in_use_gauge_.Increment();
  return Permit(*this);
}

}  // namespace nova::resilience
