// What becomes of every TLS handshake of this process, on every hop: gRPC's servers and channels, PgBouncer and Redis.
// Trust stays where it is; this only watches (docs/decisions/0002-handshake-hook.md).
//
//   HandshakeObserver observer(metrics, {.server = config.handshake_timeout});   // first, before anything uses TLS
#pragma once

#include <cstdint>
#include <string_view>

#include "nova/base/clock.h"
#include "nova/telemetry/metrics.h"

namespace nova::tls {

enum class Side : std::uint8_t { kServer, kClient };
std::string_view SideName(Side side);

// Why a handshake failed, as the end sees it that `side` names.
enum class HandshakeError : std::uint8_t {
  kNoClientCertificate,  // the peer showed none
  kCertificateExpired,   // the peer's, or one of its chain; so all that follow
  kCertificateNotYetValid,
  kCertificateUnknownCa,  // nobody this process trusts has signed it, or a link of the chain is missing
  kCertificateSelfSigned,
  kCertificateWrongName,   // not the service that was meant (libpq's own check: kPeerClosed); or no principal's
  kCertificateWrongUsage,  // its extended key usage does not allow this end
  kCertificateWeakKey,
  kCertificateOther,  // refused for another reason
  kRefusedByPeer,     // the peer refused what this process showed: its log tells why
  kPlaintext,         // the peer does not speak TLS
  kProtocol,          // no common version, suite or application protocol; or nonsense
  kPeerClosed,        // the connection ended before the handshake did
  kTimeout,
};
inline constexpr int kHandshakeErrorCount = static_cast<int>(HandshakeError::kTimeout) + 1;
// The label: "no_client_certificate", "certificate_rejected_expired", "certificate_rejected_not_yet_valid",
// "certificate_rejected_unknown_ca", "certificate_rejected_self_signed", "certificate_rejected_wrong_name",
// "certificate_rejected_wrong_usage", "certificate_rejected_weak_key", "certificate_rejected_other", "refused_by_peer",
// "plaintext", "protocol", "peer_closed", "timeout".
std::string_view HandshakeErrorName(HandshakeError error);

// From when an unfinished handshake that is given up counts as a timeout, not as closed by the peer: what gRPC was
// told. The time of a channel includes that of connecting. (OpenSSL is not told who gave up, so a peer that closes
// within the last twentieth of the limit counts as a timeout too; and a client of Redis or PostgreSQL that gives up
// sooner counts as closed by its peer.)
struct HandshakeLimits {
  Duration server = std::chrono::seconds(10);
  Duration client = std::chrono::seconds(5);
};

// Exports, from its construction to its destruction, nova_tls_handshake_errors_total{side,reason}, exactly one count
// per failed handshake, and nova_tls_handshake_seconds{side} of those whose connection came to be used: from the first
// handshake message to the last; for gRPC's channels, which make the first one before they connect, that includes
// connecting. Connections that never came to a handshake (nobody listens) are neither. There is one at most in a
// process; a context of TLS (SSL_CTX) made before the first one is not watched. Costs nothing once a connection is in
// use. Thread-safe.
class HandshakeObserver {
 public:
  // `metrics` outlives it. Aborts if there is one already.
  HandshakeObserver(telemetry::Metrics& metrics, HandshakeLimits limits);
  ~HandshakeObserver();
  HandshakeObserver(const HandshakeObserver&) = delete;
  HandshakeObserver& operator=(const HandshakeObserver&) = delete;

  struct State;  // the .cc's own
};

// For what TLS itself accepted and a check of this folder then refused (verifier.h), whose connection is dropped
// therefore. Does nothing without an observer.
void CountHandshakeError(Side side, HandshakeError error);

}  // namespace nova::tls
