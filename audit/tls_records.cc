#include "audit/tls_records.h"

#include <algorithm>
#include <cstdio>

namespace nova::audit {
namespace {

constexpr std::size_t kEthernetBytes = 14;
constexpr std::size_t kIpv4BytesMin = 20;
constexpr std::size_t kIpv6Bytes = 40;
constexpr std::size_t kTcpBytesMin = 20;
constexpr unsigned kEtherTypeIpv4 = 0x0800;
constexpr unsigned kEtherTypeIpv6 = 0x86dd;
constexpr unsigned kProtocolTcp = 6;
// More fragments follow, or this one is not the first.
constexpr unsigned kIpv4FragmentBits = 0x3fff;

constexpr std::uint8_t kContentTypeMin = 20;  // change_cipher_spec
constexpr std::uint8_t kContentTypeHandshake = 22;
constexpr std::uint8_t kContentTypeMax = 24;  // heartbeat
constexpr std::uint8_t kClientHello = 1;

unsigned Byte(std::string_view bytes, std::size_t at) { return static_cast<std::uint8_t>(bytes[at]); }
unsigned Two(std::string_view bytes, std::size_t at) { return Byte(bytes, at) << 8 | Byte(bytes, at + 1); }
std::uint32_t Four(std::string_view bytes, std::size_t at) { return Two(bytes, at) << 16 | Two(bytes, at + 2); }

std::string Hex(std::string_view bytes) {
  std::string text;
  for (const char c : bytes) {
    char two[4];
    text.append(two, static_cast<std::size_t>(std::snprintf(two, sizeof two, "%02x", static_cast<std::uint8_t>(c))));
  }
  return text;
}

struct Packet {
  std::string from;
  std::string to;
  std::string_view payload;
};

Result<Packet> ReadIpv4(std::string_view bytes) {
  if (bytes.size() < kIpv4BytesMin || Byte(bytes, 0) >> 4 != 4) return InvalidArgument("not an IPv4 packet");
  const std::size_t header = (Byte(bytes, 0) & 0xf) * 4U;
  const std::size_t total = Two(bytes, 2);
  if (header < kIpv4BytesMin || total < header || total > bytes.size())
    return InvalidArgument("an IPv4 packet that is not whole");
  if ((Two(bytes, 6) & kIpv4FragmentBits) != 0) return InvalidArgument("a fragment of an IPv4 packet");
  if (Byte(bytes, 9) != kProtocolTcp) return InvalidArgument("not TCP");
  return Packet{.from = std::string(bytes.substr(12, 4)),
                .to = std::string(bytes.substr(16, 4)),
                .payload = bytes.substr(header, total - header)};
}

Result<Packet> ReadIpv6(std::string_view bytes) {
  if (bytes.size() < kIpv6Bytes || Byte(bytes, 0) >> 4 != 6) return InvalidArgument("not an IPv6 packet");
  const std::size_t size = Two(bytes, 4);
  // Extension headers included, which nobody sends on loopback.
  if (Byte(bytes, 6) != kProtocolTcp) return InvalidArgument("not TCP");
  if (size > bytes.size() - kIpv6Bytes) return InvalidArgument("an IPv6 packet that is not whole");
  return Packet{.from = std::string(bytes.substr(8, 16)),
                .to = std::string(bytes.substr(24, 16)),
                .payload = bytes.substr(kIpv6Bytes, size)};
}

Result<Packet> ReadPacket(std::string_view frame) {
  if (frame.size() < kEthernetBytes) return InvalidArgument("not an Ethernet frame");
  const std::string_view packet = frame.substr(kEthernetBytes);
  switch (Two(frame, 12)) {
    case kEtherTypeIpv4:
      return ReadIpv4(packet);
    case kEtherTypeIpv6:
      return ReadIpv6(packet);
    default:
      return InvalidArgument("not an IP packet");
  }
}

void Set(std::string& text, const std::string& what) {
  if (text.empty()) text = what;
}

}  // namespace

Result<TcpSegment> ReadFrame(std::string_view frame) {
  NOVA_TRY(const Packet packet, ReadPacket(frame));
  const std::string_view tcp = packet.payload;
  if (tcp.size() < kTcpBytesMin) return InvalidArgument("a TCP segment that is not whole");
  const std::size_t header = (Byte(tcp, 12) >> 4) * 4U;
  if (header < kTcpBytesMin || header > tcp.size()) return InvalidArgument("a TCP segment that is not whole");
  const unsigned flags = Byte(tcp, 13);
  return TcpSegment{.from = {.address = packet.from, .port = static_cast<int>(Two(tcp, 0))},
                    .to = {.address = packet.to, .port = static_cast<int>(Two(tcp, 2))},
                    .sequence = Four(tcp, 4),
                    .syn = (flags & 0x02) != 0,
                    .ack = (flags & 0x10) != 0,
                    .fin = (flags & 0x01) != 0,
                    .rst = (flags & 0x04) != 0,
                    .payload = tcp.substr(header)};
}

std::vector<std::string> TcpStream::Add(std::uint32_t sequence, std::string_view payload) {
  std::vector<std::string> readable;
  if (payload.empty()) return readable;
  const std::int64_t begin = Position(sequence);
  if (begin > position_) {
    std::string& held = held_[begin];
    if (held.size() >= payload.size()) return readable;
    if (held_bytes_ - held.size() + payload.size() > kHeldBytesMax) {
      overflown_ = true;
      if (held.empty()) held_.erase(begin);
      return readable;
    }
    held_bytes_ += payload.size() - held.size();
    held = payload;
    return readable;
  }
  const auto take = [&](std::int64_t at, std::string_view bytes) {
    const auto known = static_cast<std::size_t>(position_ - at);
    if (known >= bytes.size()) return;
    bytes.remove_prefix(known);
    readable.emplace_back(bytes);
    position_ += static_cast<std::int64_t>(bytes.size());
    next_ += static_cast<std::uint32_t>(bytes.size());
  };
  take(begin, payload);
  while (!held_.empty() && held_.begin()->first <= position_) {
    const auto first = held_.begin();
    take(first->first, first->second);
    held_bytes_ -= first->second.size();
    held_.erase(first);
  }
  return readable;
}

bool TlsStream::MayBeHeader(std::span<const std::uint8_t> header) {
  if (!header.empty() && (header[0] < kContentTypeMin || header[0] > kContentTypeMax)) return false;
  if (header.size() > 1 && header[1] != 3) return false;
  if (header.size() > 2 && header[2] != 1 && header[2] != 3) return false;
  if (header.size() < kHeaderBytes) return true;
  const std::size_t length = static_cast<std::size_t>(header[3]) << 8 | header[4];
  return length > 0 && length <= kFragmentBytesMax;
}

void TlsStream::BeginFragment() {
  left_ = static_cast<std::size_t>(header_[3]) << 8 | header_[4];
  header_size_ = 0;
  if (begin_ != Begin::kClientHello || records_ > 0) return;
  if (header_[0] == kContentTypeHandshake)
    expects_hello_ = true;
  else
    broken_ = "its first record is no handshake";
}

void TlsStream::Add(std::string_view bytes) {
  bytes_ += bytes.size();
  if (joining_ && broken_.empty()) {
    std::array<std::uint8_t, kHeaderBytes> begin{};
    std::copy_n(bytes.begin(), std::min(bytes.size(), kHeaderBytes), begin.begin());
    if (bytes.size() >= kHeaderBytes && MayBeHeader(begin)) {
      joining_ = false;
    } else {
      skipped_ += bytes.size();
      if (skipped_ > kHeaderBytes + kFragmentBytesMax)
        broken_ = std::to_string(skipped_) + " bytes without the begin of a record";
      return;
    }
  }
  while (!bytes.empty() && broken_.empty()) {
    if (left_ > 0) {
      if (expects_hello_) {
        expects_hello_ = false;
        has_client_hello_ = Byte(bytes, 0) == kClientHello;
        if (!has_client_hello_) broken_ = "its first record is no ClientHello";
      }
      const std::size_t size = std::min(left_, bytes.size());
      bytes.remove_prefix(size);
      left_ -= size;
      if (left_ == 0) ++records_;
      continue;
    }
    header_[header_size_++] = static_cast<std::uint8_t>(bytes.front());
    if (!MayBeHeader(std::span(header_).first(header_size_))) {
      const std::string_view seen(reinterpret_cast<const char*>(header_.data()), header_size_ - 1);
      broken_ = "after " + std::to_string(records_) + " records come the bytes " +
                Hex(std::string(seen).append(bytes.substr(0, kHeaderBytes - seen.size()))) + ", which begin none";
      return;
    }
    bytes.remove_prefix(1);
    if (header_size_ == kHeaderBytes) BeginFragment();
  }
}

TlsRecords::TlsRecords(std::vector<int> ports) : ports_(std::move(ports)) {}

void TlsRecords::Add(const TcpSegment& segment) {
  const auto listens = [this](const TcpEnd& end) { return std::ranges::find(ports_, end.port) != ports_.end(); };
  // Who sends SYN alone is the client, and who answers it is not.
  const bool is_client = segment.syn ? !segment.ack : listens(segment.to);
  const TcpEnd& client = is_client ? segment.from : segment.to;
  const TcpEnd& server = is_client ? segment.to : segment.from;
  if (!listens(server)) return;

  auto found = connections_.find({client, server});
  const bool begins = segment.syn && is_client;
  if (begins && found != connections_.end() && (found->second.joined || found->second.first != segment.sequence)) {
    Port& over = over_[server.port];
    over.connections += found->second.from_client.tls || found->second.from_server.tls;
    over.joined += found->second.joined;
    Count(found->second.from_client, over);
    Count(found->second.from_server, over);
    connections_.erase(found);
    found = connections_.end();
  }
  if (found == connections_.end()) {
    // What closes a connection that nothing was seen of tells nothing.
    if (!begins && segment.payload.empty()) return;
    if (connections_.size() >= kConnectionsMax) {
      overflown_ = true;
      return;
    }
    found = connections_.emplace(Ends(client, server), Connection{.first = segment.sequence, .joined = !begins}).first;
  }
  Connection& connection = found->second;
  AddTo(is_client ? connection.from_client : connection.from_server, is_client, connection.joined, segment);
}

void TlsRecords::AddTo(Direction& direction, bool is_client, bool joined, const TcpSegment& segment) {
  // SYN takes a sequence number of its own.
  const std::uint32_t first = segment.sequence + (segment.syn ? 1 : 0);
  if (!direction.tcp) direction.tcp.emplace(first);
  for (const std::string& bytes : direction.tcp->Add(first, segment.payload)) {
    if (!direction.tls)
      direction.tls.emplace(joined      ? TlsStream::Begin::kJoined
                            : is_client ? TlsStream::Begin::kClientHello
                                        : TlsStream::Begin::kRecord);
    direction.tls->Add(bytes);
  }
  if (segment.fin) direction.tcp->End(first + static_cast<std::uint32_t>(segment.payload.size()));
}

void TlsRecords::Count(const Direction& direction, Port& port) {
  if (direction.tcp && direction.tcp->has_gap()) Set(port.undecided, "bytes of a connection are not in the capture");
  if (!direction.tls) return;
  const TlsStream& tls = *direction.tls;
  port.client_hellos += tls.has_client_hello();
  port.records += tls.records();
  port.bytes += tls.bytes();
  port.skipped += tls.skipped();
  if (!tls.broken().empty()) Set(port.broken, tls.broken());
  if (tls.is_joining())
    Set(port.undecided, std::to_string(tls.bytes()) + " bytes of a connection that is older than the capture");
  // A stream that goes on may be in the middle of one.
  if (tls.broken().empty() && tls.is_in_record() && direction.tcp->ended())
    Set(port.broken, "a connection was closed within a record");
}

TlsRecords::Port TlsRecords::Seen(int port) const {
  const auto over = over_.find(port);
  Port seen = over == over_.end() ? Port() : over->second;
  for (const auto& [ends, connection] : connections_) {
    if (ends.second.port != port) continue;
    seen.connections += connection.from_client.tls || connection.from_server.tls;
    seen.joined += connection.joined;
    Count(connection.from_client, seen);
    Count(connection.from_server, seen);
  }
  if (overflown_) Set(seen.undecided, "more than " + std::to_string(kConnectionsMax) + " connections");
  return seen;
}

}  // namespace nova::audit
