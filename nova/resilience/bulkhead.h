// Bulkhead: how many calls to one dependency may be under way at once, so that one that hangs cannot take everything
// with it. It never queues: a call over the limit is refused, and whoever wants a queue has one with a limit of its
// own.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <prometheus/gauge.h>

namespace nova::resilience {

// Thread-safe.
class Bulkhead {
 public:
  // A place in the bulkhead, held until the work has really ended, which may be later than its caller gave up: a
  // command that was sent, a query that the server is still cancelling. Whoever finishes such work takes the permit
  // along. Confined to its owner. It must not outlive the bulkhead.
  class Permit {
   public:
    Permit() = default;
    Permit(Permit&& other) noexcept;
    Permit& operator=(Permit&& other) noexcept;
    ~Permit();

    // The caller has gone, the work goes on. Counts as orphaned from now to the permit's end.
    void Orphan();
    explicit operator bool() const { return bulkhead_ != nullptr; }

   private:
    friend class Bulkhead;
    explicit Permit(Bulkhead& bulkhead) : bulkhead_(&bulkhead) {}
    void Release();
    Bulkhead* bulkhead_ = nullptr;
    bool orphaned_ = false;
  };

  // The gauges show permits in use (orphans included) and orphans; they must outlive the bulkhead.
  Bulkhead(int calls_max, prometheus::Gauge& in_use, prometheus::Gauge& orphaned);
  // Precondition: every permit is back.
  ~Bulkhead();
  Bulkhead(const Bulkhead&) = delete;
  Bulkhead& operator=(const Bulkhead&) = delete;

  // Nothing if the bulkhead is full.
  std::optional<Permit> TryAcquire();

  int in_use() const { return in_use_.load(std::memory_order_relaxed); }
  int orphaned() const { return orphaned_.load(std::memory_order_relaxed); }

 private:
  const int calls_max_;
  prometheus::Gauge& in_use_gauge_;
  prometheus::Gauge& orphaned_gauge_;
  std::atomic<int> in_use_ = 0;
  std::atomic<int> orphaned_ = 0;
};

}  // namespace nova::resilience
