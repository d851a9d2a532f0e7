#include "nova/redis/pipeline.h"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>
#include <exception>
#include <utility>

namespace nova::redis {
namespace {

using runtime::Awaitable;
using runtime::Call;
using runtime::CancelHook;
using runtime::Task;

// A larger output buffer is given back once it is sent.
constexpr std::size_t kOutputKeptBytesMax = 256 * 1024;

Error Refused(const std::string& setting) {
  return ResourceExhausted("the service is busy, try again later",
                           setting + " is reached: too much is on the way to Redis");
}

}  // namespace

Pipeline::Pipeline(runtime::Strand strand, std::unique_ptr<Connection> connection, const ClientConfig& config,
                   prometheus::Counter& abandoned_replies)
    : strand_(std::move(strand)),
      config_(config),
      abandoned_replies_(abandoned_replies),
      connection_(std::move(connection)),
      watch_(strand_) {}

Result<void> Pipeline::Submit(const std::shared_ptr<Batch>& batch) {
  {
    std::lock_guard lock(mutex_);
    if (broken_) return *broken_;
    if (retired_) return RedisUnavailable("the connection has reached redis.connection_lifetime");
    if (load() + batch->commands > config_.pipeline_max) return Refused("redis.pipeline_max");
    const auto bytes = static_cast<std::int64_t>(batch->wire.size());
    if (queued_bytes_ + bytes > config_.queued_bytes_max) return Refused("redis.queued_bytes_max");
    queued_bytes_ += bytes;
    load_ += batch->commands;
    queue_.push_back(batch);
    if (std::exchange(sending_, true)) return Ok();
  }
  asio::co_spawn(strand_, SendQueued(shared_from_this()), [](std::exception_ptr thrown) {
    if (thrown) std::rethrow_exception(thrown);  // a bug: let it end the process loudly
  });
  return Ok();
}

void Pipeline::Retire() {
  {
    std::lock_guard lock(mutex_);
    retired_ = true;
  }
  asio::post(strand_, [self = shared_from_this()] { self->EndIfRetired(); });
}

void Pipeline::EndIfRetired() {
  // Nothing is added to the load once it is retired.
  if (retired_ && load() == 0) Break(RedisUnavailable("the connection has reached redis.connection_lifetime"));
}

Awaitable<void> Pipeline::SendQueued(std::shared_ptr<Pipeline> self) {
  while (self->TakeQueued()) {
    if (self->output_.empty()) continue;
    if (Result<void> written = co_await self->connection_->Write(self->output_); !written)
      self->Break(std::move(written).error());
  }
  if (self->broken_) (void)self->sender_ended_.TrySet(true);
}

bool Pipeline::TakeQueued() {
  std::deque<std::shared_ptr<Batch>> taken;
  {
    std::lock_guard lock(mutex_);
    queued_bytes_ -= static_cast<std::int64_t>(output_.size());
    if (broken_ || queue_.empty()) {
      sending_ = false;
    } else {
      taken.swap(queue_);
    }
  }
  output_.clear();
  if (output_.capacity() > kOutputKeptBytesMax) output_.shrink_to_fit();
  if (taken.empty()) return false;

  std::int64_t bytes_dropped = 0;
  const SteadyTime now = Clock::System().Now();
  for (std::shared_ptr<Batch>& batch : taken) {
    if (batch->abandoned) {
      bytes_dropped += static_cast<std::int64_t>(batch->wire.size());
      load_ -= batch->commands;
      continue;
    }
    output_ += batch->wire;
    batch->wire = {};
    const int commands = batch->commands;
    sent_.push_back({.batch = std::move(batch), .replies_left = commands, .when = now});
  }
  if (bytes_dropped > 0) {
    std::lock_guard lock(mutex_);
    queued_bytes_ -= bytes_dropped;
  }
  WatchOldest();
  EndIfRetired();
  return true;
}

Task<void> Pipeline::Serve(Call& call) {
  const auto self = shared_from_this();
  {
    const CancelHook hook(call, [this](const Error&) { Break(RedisUnavailable("the client is closed")); });
    while (!broken_) {
      if (Result<void> read = co_await connection_->Read(); !read) {
        Break(std::move(read).error());
        break;
      }
      while (!broken_) {
        auto reply = connection_->Next();
        if (!reply) {
          Break(std::move(reply).error());
        } else if (*reply) {
          Deliver(**std::move(reply));
        } else {
          break;
        }
      }
    }
  }
  bool sending = false;
  {
    std::lock_guard lock(mutex_);
    sending = sending_;
  }
  if (sending) {
    // Its write has failed by now, or does so at once: the socket is closed.
    Call end(strand_);
    NOVA_CO_TRY(co_await sender_ended_.Wait(end));
  }
  co_return *broken_;
}

void Pipeline::Deliver(Reply reply) {
  if (sent_.empty()) {
    Break(RedisUnavailable("Redis spoke unasked" + (reply.is_error() ? ": " + ToError(reply).detail() : "")));
    return;
  }
  Sent& oldest = sent_.front();
  --load_;
  oldest.batch->replies.push_back(std::move(reply));
  if (--oldest.replies_left > 0) return;
  const std::shared_ptr<Batch> batch = std::move(oldest.batch);
  sent_.pop_front();
  if (!batch->done.TrySet(std::move(batch->replies))) abandoned_replies_.Increment(batch->commands);
  EndIfRetired();
}

void Pipeline::Break(Error why) {
  std::deque<std::shared_ptr<Batch>> unsent;
  {
    std::lock_guard lock(mutex_);
    if (broken_) return;
    broken_ = std::move(why);
    unsent.swap(queue_);
  }
  connection_->Close();
  watch_.cancel();
  for (const Sent& sent : std::exchange(sent_, {})) {
    (void)sent.batch->done.TrySet(
        RedisUnavailable(broken_->detail() + "; the command was sent and may have been executed"));
  }
  for (const auto& batch : unsent) (void)batch->done.TrySet(*broken_);
}

void Pipeline::WatchOldest() {
  if (watching_ || broken_ || sent_.empty()) return;
  watching_ = true;
  watch_.expires_at(sent_.front().when + config_.reply_limit);
  watch_.async_wait([self = shared_from_this()](const boost::system::error_code&) {
    self->watching_ = false;
    if (self->broken_ || self->sent_.empty()) return;
    if (self->sent_.front().when + self->config_.reply_limit <= Clock::System().Now()) {
      self->Break(RedisUnavailable("Redis did not answer a command within redis.reply_limit"));
      return;
    }
    self->WatchOldest();
  });
}

}  // namespace nova::redis
