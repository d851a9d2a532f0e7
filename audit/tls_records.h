// What TCP carried, judged as TLS: segments are put together to streams, and streams read as records. It needs no key:
// what is encrypted stays so. Plaintext cannot pass, for a record begins with five bytes that few other bytes look like
// (one in ten million), and the next one must begin where it ends.
//
//   TlsRecords records({7401, 7402});
//   records.Add(segment);        // each one of the capture
//   records.Seen(7401).AllTls()
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "nova/base/result.h"

namespace nova::audit {

// One end of a TCP connection.
struct TcpEnd {
  std::string address;  // four or sixteen bytes
  int port = 0;
  auto operator<=>(const TcpEnd&) const = default;
};

struct TcpSegment {
  TcpEnd from;
  TcpEnd to;
  std::uint32_t sequence = 0;  // of the first byte of the payload, or of SYN
  bool syn = false;
  bool ack = false;
  bool fin = false;
  bool rst = false;
  std::string_view payload = {};
};

// Reads an Ethernet frame, as loopback has them too, with IPv4 or IPv6 and TCP in it. The payload lies in `frame`.
// Errors: INVALID_ARGUMENT if it is anything else, a fragment, or shorter than it says.
Result<TcpSegment> ReadFrame(std::string_view frame);

// The payload of one direction, in its order, whatever the order, the repetitions and the overlaps of its segments.
class TcpStream {
 public:
  // More is not kept of what comes before its time.
  static constexpr std::size_t kHeldBytesMax = std::size_t{4} << 20;

  // The first byte has this sequence number.
  explicit TcpStream(std::uint32_t sequence) : next_(sequence) {}

  // Returns what has become readable, piece by piece.
  std::vector<std::string> Add(std::uint32_t sequence, std::string_view payload);
  // The stream has no byte from this sequence number on.
  void End(std::uint32_t sequence) { end_ = Position(sequence); }

  bool ended() const { return end_ && position_ >= *end_; }
  // Bytes before these have not been seen.
  bool has_gap() const { return !held_.empty() || overflown_ || (end_ && position_ < *end_); }

 private:
  // In the stream; sequence numbers begin anew every four gigabytes.
  std::int64_t Position(std::uint32_t sequence) const {
    return position_ + static_cast<std::int32_t>(sequence - next_);
  }

  std::uint32_t next_;
  std::int64_t position_ = 0;  // of next_
  std::optional<std::int64_t> end_;
  std::map<std::int64_t, std::string> held_;
  std::size_t held_bytes_ = 0;
  bool overflown_ = false;
};

// One direction, read as TLS records: content type 20 to 24, version 3.1 or 3.3, and a length that TLS allows.
class TlsStream {
 public:
  static constexpr std::size_t kHeaderBytes = 5;
  static constexpr std::size_t kFragmentBytesMax = (std::size_t{1} << 14) + 256;

  // How the first byte is related to records.
  enum class Begin : std::uint8_t {
    kClientHello,  // it begins the one that must be first of a client
    kRecord,       // it begins one
    kJoined,  // unknown: the stream is older than the capture. The first segment that begins like a record decides,
              // and must come before the longest record has passed.
  };
  explicit TlsStream(Begin begin) : begin_(begin), joining_(begin == Begin::kJoined) {}

  // The next bytes of the stream; in a stream that was joined, the payload of a segment.
  void Add(std::string_view bytes);

  std::uint64_t bytes() const { return bytes_; }
  // Of them, those before the first record of a stream that was joined.
  std::uint64_t skipped() const { return skipped_; }
  std::uint64_t records() const { return records_; }
  bool has_client_hello() const { return has_client_hello_; }
  // It does not end with the end of a record.
  bool is_in_record() const { return header_size_ > 0 || left_ > 0; }
  // No record was recognised so far, and that may still be right.
  bool is_joining() const { return joining_ && broken_.empty(); }
  // Why it is not TLS; empty if it is.
  const std::string& broken() const { return broken_; }

 private:
  void BeginFragment();
  // Of the first `size` bytes of a record.
  static bool MayBeHeader(std::span<const std::uint8_t> header);

  const Begin begin_;
  bool joining_;
  std::uint64_t bytes_ = 0;
  std::uint64_t skipped_ = 0;
  std::uint64_t records_ = 0;
  std::array<std::uint8_t, kHeaderBytes> header_{};
  std::size_t header_size_ = 0;  // what is there of it
  std::size_t left_ = 0;         // of the fragment
  bool expects_hello_ = false;   // the next byte is the first of a handshake message that must be ClientHello
  bool has_client_hello_ = false;
  std::string broken_;
};

class TlsRecords {
 public:
  // More are not told apart.
  static constexpr std::size_t kConnectionsMax = 100'000;

  // Of all connections to one port.
  struct Port {
    int connections = 0;  // with payload
    int joined = 0;       // of them, those that were there before the capture
    int client_hellos = 0;
    std::uint64_t records = 0;
    std::uint64_t bytes = 0;
    // At the begin of joined connections: the rest of a record that had begun before.
    std::uint64_t skipped = 0;
    // The first thing that is not TLS, and the first that cannot be told; empty if there is none.
    std::string broken;
    std::string undecided;
    bool AllTls() const { return broken.empty() && undecided.empty() && client_hellos > 0; }
  };

  // Segments from and to other ports are not looked at.
  explicit TlsRecords(std::vector<int> ports);

  void Add(const TcpSegment& segment);
  Port Seen(int port) const;

 private:
  struct Direction {
    std::optional<TcpStream> tcp;
    std::optional<TlsStream> tls;
  };
  struct Connection {
    std::uint32_t first = 0;  // the client's sequence number of SYN; of no meaning in one that was joined
    bool joined = false;
    Direction from_client;
    Direction from_server;
  };
  using Ends = std::pair<TcpEnd, TcpEnd>;  // client, server

  void AddTo(Direction& direction, bool is_client, bool joined, const TcpSegment& segment);
  static void Count(const Direction& direction, Port& port);

  const std::vector<int> ports_;
  std::map<Ends, Connection> connections_;
  // Of connections whose ends are used again.
  std::map<int, Port> over_;
  bool overflown_ = false;
};

}  // namespace nova::audit
