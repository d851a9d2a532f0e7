#include "nova/tls/handshakes.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <optional>
#include <prometheus/counter.h>
#include <prometheus/histogram.h>
#include <span>
#include <string>

namespace nova::tls {
namespace {

constexpr std::array<std::string_view, 2> kSideNames = {"server", "client"};
constexpr std::array<std::string_view, kHandshakeErrorCount> kErrorNames = {
    "no_client_certificate",
    "certificate_rejected_expired",
    "certificate_rejected_not_yet_valid",
    "certificate_rejected_unknown_ca",
    "certificate_rejected_self_signed",
    "certificate_rejected_wrong_name",
    "certificate_rejected_wrong_usage",
    "certificate_rejected_weak_key",
    "certificate_rejected_other",
    "refused_by_peer",
    "plaintext",
    "protocol",
    "peer_closed",
    "timeout",
};
static_assert(!kErrorNames.back().empty());

}  // namespace

std::string_view SideName(Side side) { return kSideNames.at(static_cast<std::size_t>(side)); }
std::string_view HandshakeErrorName(HandshakeError error) { return kErrorNames.at(static_cast<std::size_t>(error)); }

struct HandshakeObserver::State {
  HandshakeLimits limits;
  std::uint64_t number;  // tells this observer from those before it
  std::array<std::array<prometheus::Counter*, kErrorNames.size()>, 2> errors{};
  std::array<prometheus::Histogram*, 2> seconds{};
  // Refused after TLS had accepted, and not freed yet.
  std::array<int, 2> refused{};

  Duration limit(Side side) const { return side == Side::kServer ? limits.server : limits.client; }
  void Count(Side side, HandshakeError error) {
    errors.at(static_cast<std::size_t>(side)).at(static_cast<std::size_t>(error))->Increment();
  }
};

namespace {

using Observer = HandshakeObserver::State;
using Bytes = std::span<const unsigned char>;

// One lock for all of this file: handshakes are few, and what is done under it takes no time. An SSL object is used by
// one thread at a time anyway, but what orders the threads lies in gRPC, where ThreadSanitizer does not see it. Never
// destroyed: threads of gRPC may free connections until the process has ended.
struct Process {
  std::mutex mutex;
  std::unique_ptr<Observer> observer;  // guarded by mutex; null if nobody watches
  std::uint64_t observers = 0;         // guarded by mutex; so many have been made
};
Process& TheProcess() {
  static Process& process = *new Process;
  return process;
}

// What has been seen of one handshake; belongs to its SSL object. Guarded by the lock above.
struct Handshake {
  std::uint64_t observer;  // its number; it may be gone
  SteadyTime made;
  bool settled = false;
  bool heard = false;  // anything at all from the peer
  bool finished_read = false;
  bool finished_written = false;
  bool offered_protocols = false;
  std::optional<SteadyTime> begun = {};
  std::optional<SteadyTime> done = {};
};

int SslIndex();

SteadyTime Now() { return std::chrono::steady_clock::now(); }
Side SideOf(const SSL* ssl) { return SSL_is_server(ssl) == 1 ? Side::kServer : Side::kClient; }

// Who watches this handshake; null once its outcome is known or nobody wants to know.
Observer* ObserverOf(const Handshake& handshake) {
  Observer* const observer = TheProcess().observer.get();
  return handshake.settled || observer == nullptr || observer->number != handshake.observer ? nullptr : observer;
}

void Fail(SSL* ssl, Handshake& handshake, HandshakeError error) {
  if (Observer* const observer = ObserverOf(handshake)) observer->Count(SideOf(ssl), error);
  handshake.settled = true;
}

void Succeed(SSL* ssl, Handshake& handshake) {
  if (Observer* const observer = ObserverOf(handshake)) {
    const std::chrono::duration<double> seconds = *handshake.done - *handshake.begun;
    observer->seconds.at(static_cast<std::size_t>(SideOf(ssl)))->Observe(seconds.count());
  }
  handshake.settled = true;
}

HandshakeError VerificationError(long result) {
  switch (result) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
      return HandshakeError::kCertificateExpired;
    case X509_V_ERR_CERT_NOT_YET_VALID:
      return HandshakeError::kCertificateNotYetValid;
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
      return HandshakeError::kCertificateSelfSigned;
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:  // a foreign authority that came with the chain
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_CERT_SIGNATURE_FAILURE:  // an authority of the same name, with another key
      return HandshakeError::kCertificateUnknownCa;
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_EMAIL_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
      return HandshakeError::kCertificateWrongName;
    case X509_V_ERR_INVALID_PURPOSE:
      return HandshakeError::kCertificateWrongUsage;
    case X509_V_ERR_EE_KEY_TOO_SMALL:
    case X509_V_ERR_CA_KEY_TOO_SMALL:
    case X509_V_ERR_CA_MD_TOO_WEAK:
      return HandshakeError::kCertificateWeakKey;
    default:
      return HandshakeError::kCertificateOther;
  }
}

// Why this end sent its alert: OpenSSL has queued the reason before. The queue is left as it is, for its owner to read.
HandshakeError ReasonOfOwnAlert(const SSL* ssl) {
  const unsigned long newest = ERR_peek_last_error();
  if (ERR_GET_LIB(newest) != ERR_LIB_SSL) return HandshakeError::kProtocol;
  switch (ERR_GET_REASON(newest)) {
    case SSL_R_CERTIFICATE_VERIFY_FAILED:
      return VerificationError(SSL_get_verify_result(ssl));
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
      return HandshakeError::kNoClientCertificate;
    default:
      return HandshakeError::kProtocol;
  }
}

HandshakeError ReasonOfPeersAlert(int alert) {
  switch (alert) {
    case SSL_AD_BAD_CERTIFICATE:
    case SSL_AD_UNSUPPORTED_CERTIFICATE:
    case SSL_AD_CERTIFICATE_REVOKED:
    case SSL_AD_CERTIFICATE_EXPIRED:
    case SSL_AD_CERTIFICATE_UNKNOWN:
    case SSL_AD_UNKNOWN_CA:
    case SSL_AD_ACCESS_DENIED:
    case SSL_AD_CERTIFICATE_REQUIRED:
      return HandshakeError::kRefusedByPeer;
    default:
      return HandshakeError::kProtocol;
  }
}

void OnAlert(SSL* ssl, Handshake& handshake, bool written, Bytes alert) {
  if (alert.size() != 2) return;
  const int description = alert[1];
  // All others are fatal, whatever level they name (RFC 8446, 6). How a connection ends that was closed is seen when it
  // is freed.
  if (description == SSL_AD_CLOSE_NOTIFY || description == SSL_AD_USER_CANCELLED ||
      description == SSL_AD_NO_RENEGOTIATION)
    return;
  if (written) {
    Fail(ssl, handshake, ReasonOfOwnAlert(ssl));
  } else if (!handshake.done || SideOf(ssl) == Side::kClient) {
    // In TLS 1.3 a client is done before the server has judged its certificate, and is told so after.
    Fail(ssl, handshake, ReasonOfPeersAlert(description));
  }
}

// Whether a ClientHello offers application protocols (ALPN, RFC 7301). OpenSSL tells only what was selected.
bool OffersProtocols(Bytes hello) {
  bool complete = true;
  const auto take = [&](std::size_t size) {
    complete = complete && size <= hello.size();
    const Bytes taken = complete ? hello.first(size) : Bytes();
    if (complete) hello = hello.subspan(size);
    return taken;
  };
  const auto number = [&](std::size_t size) {
    std::size_t value = 0;
    for (const unsigned char byte : take(size)) value = value << 8U | byte;
    return value;
  };
  take(4 + 2 + 32);  // header, version, random
  take(number(1));   // session
  take(number(2));   // suites
  take(number(1));   // compression
  take(2);           // the size of the rest
  while (complete && !hello.empty()) {
    if (number(2) == TLSEXT_TYPE_application_layer_protocol_negotiation) return complete;
    take(number(2));
  }
  return false;
}

void OnHandshakeMessage(SSL* ssl, Handshake& handshake, bool written, Bytes message) {
  if (message.empty()) return;
  if (message[0] == SSL3_MT_CLIENT_HELLO && written) handshake.offered_protocols = OffersProtocols(message);
  if (message[0] != SSL3_MT_FINISHED) return;
  (written ? handshake.finished_written : handshake.finished_read) = true;
  if (!handshake.finished_written || !handshake.finished_read || handshake.done) return;
  handshake.done = Now();
  // TLS may do without an application protocol, gRPC drops the connection then. Only gRPC serves TLS in this process;
  // as a client it is the one that offers protocols.
  const unsigned char* selected = nullptr;
  unsigned size = 0;
  SSL_get0_alpn_selected(ssl, &selected, &size);
  if (size == 0 && (SideOf(ssl) == Side::kServer || handshake.offered_protocols))
    Fail(ssl, handshake, HandshakeError::kProtocol);
}

// The first bytes from the peer. OpenSSL sends no alert to one that does not speak TLS.
void OnFirstRecord(SSL* ssl, Handshake& handshake, Bytes header) {
  constexpr unsigned char kTlsMajorVersion = 3;
  if (header.size() == SSL3_RT_HEADER_LENGTH && header[1] != kTlsMajorVersion)
    Fail(ssl, handshake, HandshakeError::kPlaintext);
}

bool IsApplicationData(const SSL* ssl, int type, Bytes bytes) {
  // In TLS 1.3 every encrypted record says on its outside that it is.
  const int where = SSL_version(ssl) == TLS1_3_VERSION ? SSL3_RT_INNER_CONTENT_TYPE : SSL3_RT_HEADER;
  return type == where && !bytes.empty() && bytes[0] == SSL3_RT_APPLICATION_DATA;
}

void Follow(SSL* ssl, Handshake& handshake, bool written, int type, Bytes bytes) {
  if (!handshake.begun) handshake.begun = Now();
  if (type == SSL3_RT_ALERT) {
    OnAlert(ssl, handshake, written, bytes);
  } else if (type == SSL3_RT_HANDSHAKE) {
    OnHandshakeMessage(ssl, handshake, written, bytes);
  } else if (type == SSL3_RT_HEADER && !written && !handshake.heard) {
    OnFirstRecord(ssl, handshake, bytes);
  } else if (!written && handshake.done && IsApplicationData(ssl, type, bytes)) {
    // Only now a client knows that the server has accepted it too.
    Succeed(ssl, handshake);
  }
  if (!written) handshake.heard = true;
}

// OpenSSL calls this for every message of a connection until the handshake's outcome is known.
void OnMessage(int is_written, int /*version*/, int type, const void* data, std::size_t size, SSL* ssl,
               void* /*argument*/) {
  const std::lock_guard lock(TheProcess().mutex);
  auto* const handshake = static_cast<Handshake*>(SSL_get_ex_data(ssl, SslIndex()));
  const bool watched = handshake != nullptr && ObserverOf(*handshake) != nullptr;
  if (watched) Follow(ssl, *handshake, is_written != 0, type, {static_cast<const unsigned char*>(data), size});
  if (!watched || handshake->settled) SSL_set_msg_callback(ssl, nullptr);
}

// Whether the connection of a refusal is being freed. Which one it is does not matter: in the end all of them are,
// once.
bool TakeRefusal(Observer& observer, Side side) {
  int& refused = observer.refused.at(static_cast<std::size_t>(side));
  if (refused == 0) return false;
  --refused;
  return true;
}

// Whether a handshake whose outcome is unknown at its end has failed.
bool HasFailed(SSL* ssl, const Handshake& handshake, Observer& observer) {
  if (SideOf(ssl) == Side::kServer) {
    // Done, and the client went without a word: it may not have liked what it saw, but has said so only to itself. A
    // connection that nothing came over counts. (gRPC tells an SSL object at once which end it is, and those of our
    // clients are born as one. libpq's look like a server's until it connects, and only unreadable certificate files
    // keep it from that.)
    return !handshake.done && SSL_get_rbio(ssl) != nullptr;
  }
  // Done as the client sees it, but the server has never answered: gRPC 1.51 sends no alert to one that it refuses.
  // What was refused on this side has been counted.
  if (handshake.done) return !TakeRefusal(observer, Side::kClient);
  if (!handshake.begun) return false;
  // gRPC has the ClientHello ready before it connects: if it is still there, nobody was reached.
  BIO* const output = SSL_get_wbio(ssl);
  return handshake.heard || output == nullptr || BIO_wpending(output) == 0;
}

void OnFree(void* parent, void* data, CRYPTO_EX_DATA* /*all*/, int /*index*/, long /*number*/, void* /*pointer*/) {
  const std::lock_guard lock(TheProcess().mutex);
  const std::unique_ptr<Handshake> handshake(static_cast<Handshake*>(data));
  auto* const ssl = static_cast<SSL*>(parent);
  Observer* const observer = handshake == nullptr ? nullptr : ObserverOf(*handshake);
  if (observer == nullptr || !HasFailed(ssl, *handshake, *observer)) return;
  const Duration limit = observer->limit(SideOf(ssl));
  // gRPC's timer has started a little before the SSL object was made.
  const bool gave_up = Now() - handshake->made >= limit - limit / 20;
  Fail(ssl, *handshake, gave_up ? HandshakeError::kTimeout : HandshakeError::kPeerClosed);
}

void OnNew(void* /*parent*/, void* /*data*/, CRYPTO_EX_DATA* all, int index, long /*number*/, void* /*pointer*/) {
  const std::lock_guard lock(TheProcess().mutex);
  const Observer* const observer = TheProcess().observer.get();
  if (observer == nullptr) return;
  std::unique_ptr<Handshake> handshake(new (std::nothrow) Handshake{.observer = observer->number, .made = Now()});
  if (handshake != nullptr && CRYPTO_set_ex_data(all, index, handshake.get()) == 1) handshake.release();
}

// A copy of an SSL object was given its own by OnNew.
int OnCopy(CRYPTO_EX_DATA* to, const CRYPTO_EX_DATA* /*from*/, void** data, int index, long /*number*/,
           void* /*pointer*/) {
  *data = CRYPTO_get_ex_data(to, index);
  return 1;
}

void OnNewContext(void* parent, void* /*data*/, CRYPTO_EX_DATA* /*all*/, int /*index*/, long /*number*/,
                  void* /*pointer*/) {
  SSL_CTX_set_msg_callback(static_cast<SSL_CTX*>(parent), OnMessage);
}

// Has OpenSSL call the functions above for everything that is made from now on, by whomever, for as long as the process
// lives. The context hands its callback to its SSL objects: set there, and not on them, it also lasts in versions of
// OpenSSL that set up an SSL object after having called OnNew.
int SslIndex() {
  static const int index = [] {
    const int contexts = CRYPTO_get_ex_new_index(CRYPTO_EX_INDEX_SSL_CTX, 0, nullptr, OnNewContext, nullptr, nullptr);
    const int connections = CRYPTO_get_ex_new_index(CRYPTO_EX_INDEX_SSL, 0, nullptr, OnNew, OnCopy, OnFree);
    if (contexts < 0 || connections < 0) std::abort();  // out of memory
    return connections;
  }();
  return index;
}

}  // namespace

HandshakeObserver::HandshakeObserver(telemetry::Metrics& metrics, HandshakeLimits limits) {
  SslIndex();
  Process& process = TheProcess();
  const std::lock_guard lock(process.mutex);
  if (process.observer != nullptr) std::abort();
  process.observer = std::make_unique<State>(State{.limits = limits, .number = ++process.observers});
  for (std::size_t side = 0; side < kSideNames.size(); ++side) {
    const std::string name(kSideNames.at(side));
    // All of them from the start: a rate needs a zero to grow from.
    for (std::size_t error = 0; error < kErrorNames.size(); ++error)
      process.observer->errors.at(side).at(error) =
          &metrics.Counter("nova_tls_handshake_errors_total", "TLS handshakes that failed, by why",
                           {{"side", name}, {"reason", std::string(kErrorNames.at(error))}});
    process.observer->seconds.at(side) =
        &metrics.Histogram("nova_tls_handshake_seconds", "Duration of the TLS handshakes that succeeded",
                           telemetry::kLatencyBuckets, {{"side", name}});
  }
}

HandshakeObserver::~HandshakeObserver() {
  Process& process = TheProcess();
  const std::lock_guard lock(process.mutex);
  process.observer = nullptr;
}

void CountHandshakeError(Side side, HandshakeError error) {
  Process& process = TheProcess();
  const std::lock_guard lock(process.mutex);
  if (process.observer == nullptr) return;
  process.observer->Count(side, error);
  ++process.observer->refused.at(static_cast<std::size_t>(side));
}

}  // namespace nova::tls
