// Pipeline: many callers' commands on one connection. What is queued while a write runs goes out with the next, in one
// piece; Redis answers in order, so a reply belongs to whatever was sent first and has none yet, whether its caller
// still waits or not.
#pragma once

#include <atomic>
#include <boost/asio/steady_timer.hpp>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <prometheus/counter.h>
#include <string>
#include <vector>

#include "nova/base/result.h"
#include "nova/redis/config.h"
#include "nova/redis/connection.h"
#include "nova/redis/reply.h"
#include "nova/resilience/bulkhead.h"
#include "nova/runtime/call.h"
#include "nova/runtime/one_shot.h"
#include "nova/runtime/task.h"

namespace nova::redis {

// Commands that are sent together, and who waits for their replies.
struct Batch {
  // Constant once submitted, but for the pipeline, which lets go of it when it is sent.
  std::string wire;
  int commands = 0;

  // The replies in order, as many as commands; or why there are none.
  runtime::OneShot<std::vector<Reply>> done;
  // Set when the caller has gone: what was not sent need not be.
  std::atomic<bool> abandoned = false;
  // The caller's place in the bulkhead, left here when it goes. The work ends with the batch: whoever lets go of it
  // last, the caller or the pipeline, gives the place back. So nobody but the caller touches it, and it needs no lock.
  resilience::Bulkhead::Permit permit;

  // The pipeline's.
  std::vector<Reply> replies;
};

// Thread-safe, unless it says otherwise. Owned by shared_ptr.
class Pipeline : public std::enable_shared_from_this<Pipeline> {
 public:
  // Works on `strand`. `config` and the counter, of replies whose caller had gone, must outlive it.
  Pipeline(runtime::Strand strand, std::unique_ptr<Connection> connection, const ClientConfig& config,
           prometheus::Counter& abandoned_replies);

  // Queues the batch; its outcome comes through `done`. Errors: RESOURCE_EXHAUSTED over pipeline_max or
  // queued_bytes_max; UNAVAILABLE if the connection has broken, or is retired. After an error nothing was sent and
  // `done` stays unset.
  Result<void> Submit(const std::shared_ptr<Batch>& batch);

  // Takes no more commands; once all that it has taken are answered the connection is closed, and Serve returns.
  void Retire();
  bool retired() const { return retired_; }

  // As Connection's.
  SteadyTime begun() const { return connection_->begun(); }

  // Commands queued, and sent without a reply yet.
  int load() const { return load_.load(std::memory_order_relaxed); }

  // Reads replies until the connection breaks or the call ends; returns why, never OK. Everything that has no reply by
  // then has failed with UNAVAILABLE. To be run once, on the strand.
  runtime::Task<void> Serve(runtime::Call& call);

 private:
  struct Sent {
    std::shared_ptr<Batch> batch;
    int replies_left;
    SteadyTime when;
  };

  static runtime::Awaitable<void> SendQueued(std::shared_ptr<Pipeline> self);
  // Moves what is queued to `output_`; false if there was nothing, and then the sender has ended.
  bool TakeQueued();
  void Deliver(Reply reply);
  // Ends a retired connection that has nothing on the way.
  void EndIfRetired();
  // Ends the connection and everything on it; the first reason stays.
  void Break(Error why);
  // Ends the connection when the oldest command has had no reply for reply_limit.
  void WatchOldest();

  // Constant after construction.
  const runtime::Strand strand_;
  const ClientConfig& config_;
  prometheus::Counter& abandoned_replies_;

  // Confined to the strand.
  const std::unique_ptr<Connection> connection_;
  std::deque<Sent> sent_;
  std::string output_;
  asio::steady_timer watch_;
  bool watching_ = false;
  const runtime::OneShot<bool> sender_ended_;

  std::atomic<int> load_ = 0;
  std::atomic<bool> retired_ = false;  // set with mutex_ held
  std::mutex mutex_;
  // Guarded by mutex_.
  std::deque<std::shared_ptr<Batch>> queue_;
  std::int64_t queued_bytes_ = 0;  // of `queue_` and `output_`
  bool sending_ = false;
  std::optional<Error> broken_;  // written on the strand only, which may therefore read it without the lock
};

}  // namespace nova::redis
