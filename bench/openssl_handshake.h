// TLS by OpenSSL alone, with the settings gRPC gives it: what a connection's handshake and its preparation cost before
// gRPC and the kernel add theirs.
#pragma once

#include <chrono>
#include <memory>
#include <openssl/ssl.h>
#include <string>

namespace nova::bench {

using Microseconds = std::chrono::duration<double, std::micro>;

// As IdentityPublisher publishes them.
struct PemIdentity {
  std::string chain;
  std::string key;
  std::string ca;
};

struct SslContextDeleter {
  void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
};
using SslContext = std::unique_ptr<SSL_CTX, SslContextDeleter>;

// What gRPC 1.51 does anew for every connection that shares nothing with another: it keeps the texts, not what was read
// from them.
struct ContextCost {
  Microseconds context{};      // SSL_CTX_new
  Microseconds ciphers{};      // the list of cipher suites, and the curve
  Microseconds chain{};        // reading the certificates it shows
  Microseconds key{};          // reading its key
  Microseconds authorities{};  // reading what it trusts

  Microseconds Sum() const { return context + ciphers + chain + key + authorities; }
};

// `cost`, if given, receives what each step took. Throws std::runtime_error if OpenSSL refuses.
SslContext MakeSslContext(bool server, const PemIdentity& identity, ContextCost* cost = nullptr);

// Verifying the chain against the authorities, as each end does with what the other one shows.
Microseconds TimeChainVerification(const PemIdentity& shown, const std::string& ca);

struct HandshakeCost {
  // The CPU of each, from SSL_new until it has the other's first byte.
  Microseconds client{};
  Microseconds server{};
  bool resumed = false;
};

// Handshakes within this thread, through memory. Both ends verify each other.
class HandshakePair {
 public:
  // kResumed: the server gives tickets, and each handshake uses the one before it.
  enum class Kind { kFull, kResumed };

  HandshakePair(const PemIdentity& server, const PemIdentity& client, Kind kind);
  ~HandshakePair();
  HandshakePair(const HandshakePair&) = delete;
  HandshakePair& operator=(const HandshakePair&) = delete;

  // Throws std::runtime_error if it fails.
  HandshakeCost Run();

 private:
  const Kind kind_;
  SslContext server_;
  SslContext client_;
  SSL_SESSION* session_ = nullptr;  // the newest ticket; owned
};

}  // namespace nova::bench
