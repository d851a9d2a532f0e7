// A packet capture of TCP on this machine's loopback, by libpcap. It needs the capability CAP_NET_RAW.
//
//   NOVA_TRY(const auto capture, Capture::Start({7401}, [&](const TcpSegment& segment) { records.Add(segment); }));
//   ...
//   NOVA_TRY(const std::uint64_t packets, capture->Stop());
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "audit/tls_records.h"
#include "nova/base/result.h"

namespace nova::audit {

// Used by one thread.
class Capture {
 public:
  using Sink = std::function<void(const TcpSegment&)>;

  // What the kernel keeps for this process until it is read. A packet takes the place of the largest one, 64 KiB.
  static constexpr int kBufferBytes = 64 << 20;

  // From now on `sink` is given every TCP segment from and to these ports, on a thread of the capture's own, in the
  // order of the wire; the payload lives as long as the call. Errors: PERMISSION_DENIED with the remedy; NOT_FOUND if
  // there is no loopback; FAILED_PRECONDITION with libpcap's words.
  static Result<std::unique_ptr<Capture>> Start(const std::vector<int>& ports, Sink sink);
  // Ends the capture, whatever it saw.
  ~Capture();
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

  // Ends the capture once `sink` has been given all that was on the wire before, and returns how many packets that
  // were; call it once. Errors: DATA_LOSS if the capture is not complete, which then proves nothing; INTERNAL with
  // libpcap's words.
  Result<std::uint64_t> Stop();

 private:
  struct State;
  explicit Capture(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace nova::audit
