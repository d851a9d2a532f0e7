// The peers that no service may serve, one of each kind, and what becomes of them: a bare TLS client that does what a
// well-kept one would not.
//
//   NOVA_TRY(const Approach approach, MakeApproach(BadPeer::kExpired, authority, identity));
//   NOVA_TRY(const Reception reception, runtime.RunBlocking<Reception>(5s, [&](Call& call) {
//     return Knock(call, {.host = "127.0.0.1", .port = 7401}, approach);
//   }));
//   reception.served
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "audit/tcp.h"
#include "nova/base/result.h"
#include "nova/runtime/call.h"
#include "nova/runtime/task.h"
#include "nova/tls/certificate_maker.h"
#include "nova/tls/config.h"
#include "nova/tls/handshakes.h"

namespace nova::audit {

enum class BadPeer : std::uint8_t {
  kNoCertificate,
  kExpired,
  kNotYetValid,
  kUnknownCa,
  kSelfSigned,
  kWrongName,
  kWrongUsage,
  kWithdrawnCa,
  kWeakKey,
  kBrokenChain,
  kPlaintext,
  kTls12,
  kTls11,
  kOtherProtocol,
  kConnectAndClose,
};
inline constexpr int kBadPeerCount = static_cast<int>(BadPeer::kConnectAndClose) + 1;

// Why a server must say that it refused this one.
tls::HandshakeError ReasonFor(BadPeer peer);

// How a client comes to a port.
struct Approach {
  enum class Manner : std::uint8_t { kTls, kPlaintext, kConnectAndClose };
  Manner manner = Manner::kTls;
  // SSL's number of the only version that is offered.
  int version = 0;
  // What is asked for by ALPN.
  std::string protocol = "h2";
  // Shown if the server asks for one: PEM, leaf first.
  std::optional<tls::SignedCertificate> certificate = {};
};

// What signs certificates of the stack.
using AuthorityKeys = tls::SignedCertificate;
// Errors: FAILED_PRECONDITION if its files cannot be read.
Result<AuthorityKeys> ReadAuthorityKeys(const std::filesystem::path& directory);

// With the audit's own certificate: good in every respect. Errors: those of reading its files.
Result<Approach> GoodApproach(const tls::ChannelTlsConfig& identity);
// With a certificate made like the bad ones, but without a fault. Errors: those of MakeCertificate.
Result<Approach> MadeApproach(const AuthorityKeys& authority);

// `authority`: needed by those whose certificate has just one thing wrong with it; the others may do without.
// kWithdrawnCa is MadeApproach of an authority that is withdrawn later. Errors: FAILED_PRECONDITION if it is needed and
// not there; those of GoodApproach and MakeCertificate.
Result<Approach> MakeApproach(BadPeer peer, const std::optional<AuthorityKeys>& authority,
                              const tls::ChannelTlsConfig& identity);

struct Reception {
  // The port sent something over the connection, as gRPC does at once to whoever it lets in. (A TLS client of 1.3 ends
  // its handshake before the server has looked at its certificate: that tells nothing.)
  bool served = false;
  // The port ended the connection, or this end did because that was all it came for.
  bool closed = false;
  // For people: the alert, or how else it ended.
  std::string end = {};
  // The leaf that the server showed, PEM; empty if it did not come to that.
  std::string leaf_pem = {};
};

// Connects, speaks, and waits until the port has served it or closed the connection, or the call ends; nothing of the
// server is verified. Errors: UNAVAILABLE if there is no connection; INTERNAL if the approach cannot be made; the end
// of the call before there was a connection. Cancellation: at once.
runtime::Task<Reception> Knock(runtime::Call& call, HostPort target, Approach approach);

}  // namespace nova::audit
