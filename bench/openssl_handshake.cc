#include "bench/openssl_handshake.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdexcept>
#include <utility>
#include <vector>

namespace nova::bench {
namespace {

// gRPC's, whose order makes no difference in TLS 1.3; reading the list is what costs.
constexpr char kCiphers[] =
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
    "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384";
constexpr unsigned char kSessionContext[] = "bench";
constexpr unsigned char kProtocols[] = {2, 'h', '2'};
// The flights of a handshake are few; a pair that takes more turns is stuck.
constexpr int kTurnsMax = 100;

template <auto Free>
struct Deleter {
  template <class T>
  void operator()(T* object) const {
    Free(object);
  }
};
using Bio = std::unique_ptr<BIO, Deleter<&BIO_free_all>>;
using Certificate = std::unique_ptr<X509, Deleter<&X509_free>>;
using Key = std::unique_ptr<EVP_PKEY, Deleter<&EVP_PKEY_free>>;
using Ssl = std::unique_ptr<SSL, Deleter<&SSL_free>>;
using Store = std::unique_ptr<X509_STORE, Deleter<&X509_STORE_free>>;
using StoreContext = std::unique_ptr<X509_STORE_CTX, Deleter<&X509_STORE_CTX_free>>;

void Require(bool ok, const char* what) {
  if (ok) return;
  char reason[256] = "";
  ERR_error_string_n(ERR_get_error(), reason, sizeof reason);
  throw std::runtime_error(std::string(what) + ": " + reason);
}

// Adds the time since the last lap to `to`.
class Laps {
 public:
  void Lap(Microseconds& to) {
    const auto now = std::chrono::steady_clock::now();
    to += now - last_;
    last_ = now;
  }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

std::vector<Certificate> ReadCertificates(const std::string& pem) {
  const Bio bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  std::vector<Certificate> certificates;
  while (X509* const certificate = PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr))
    certificates.emplace_back(certificate);
  ERR_clear_error();  // that of the text's end
  Require(!certificates.empty(), "no certificate");
  return certificates;
}

void AddAuthorities(X509_STORE* store, const std::string& pem) {
  for (const Certificate& authority : ReadCertificates(pem))
    Require(X509_STORE_add_cert(store, authority.get()) == 1, "add authority");
}

}  // namespace

SslContext MakeSslContext(bool server, const PemIdentity& identity, ContextCost* cost) {
  ContextCost ignored;
  ContextCost& to = cost != nullptr ? *cost : ignored;
  Laps laps;
  SslContext context(SSL_CTX_new(TLS_method()));
  Require(context != nullptr, "SSL_CTX_new");
  laps.Lap(to.context);

  int curve = NID_X9_62_prime256v1;
  Require(SSL_CTX_set_cipher_list(context.get(), kCiphers) == 1, "cipher list");
  Require(SSL_CTX_set1_groups(context.get(), &curve, 1) == 1, "curve");
  laps.Lap(to.ciphers);

  const auto chain = ReadCertificates(identity.chain);
  Require(SSL_CTX_use_certificate(context.get(), chain.front().get()) == 1, "certificate");
  for (std::size_t i = 1; i < chain.size(); ++i)
    Require(SSL_CTX_add1_chain_cert(context.get(), chain[i].get()) == 1, "chain");
  laps.Lap(to.chain);

  const Bio bio(BIO_new_mem_buf(identity.key.data(), static_cast<int>(identity.key.size())));
  const Key key(PEM_read_bio_PrivateKey(bio.get(), nullptr, nullptr, nullptr));
  Require(key != nullptr && SSL_CTX_use_PrivateKey(context.get(), key.get()) == 1, "key");
  laps.Lap(to.key);

  AddAuthorities(SSL_CTX_get_cert_store(context.get()), identity.ca);
  laps.Lap(to.authorities);

  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER | (server ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0), nullptr);
  if (server) {
    SSL_CTX_set_session_id_context(context.get(), kSessionContext, sizeof kSessionContext);
    SSL_CTX_set_alpn_select_cb(
        context.get(),
        [](SSL*, const unsigned char** selected, unsigned char* size, const unsigned char*, unsigned, void*) {
          *selected = kProtocols + 1;
          *size = kProtocols[0];
          return SSL_TLSEXT_ERR_OK;
        },
        nullptr);
  } else {
    Require(SSL_CTX_set_alpn_protos(context.get(), kProtocols, sizeof kProtocols) == 0, "application protocol");
  }
  return context;
}

Microseconds TimeChainVerification(const PemIdentity& shown, const std::string& ca) {
  const auto chain = ReadCertificates(shown.chain);
  const Store store(X509_STORE_new());
  AddAuthorities(store.get(), ca);
  STACK_OF(X509)* const untrusted = sk_X509_new_null();
  for (const Certificate& certificate : chain) sk_X509_push(untrusted, certificate.get());
  Microseconds took{};
  Laps laps;
  const StoreContext context(X509_STORE_CTX_new());
  const bool good = X509_STORE_CTX_init(context.get(), store.get(), chain.front().get(), untrusted) == 1 &&
                    X509_verify_cert(context.get()) == 1;
  laps.Lap(took);
  sk_X509_free(untrusted);
  Require(good, "chain");
  return took;
}

HandshakePair::HandshakePair(const PemIdentity& server, const PemIdentity& client, Kind kind)
    : kind_(kind), server_(MakeSslContext(true, server)), client_(MakeSslContext(false, client)) {
  SSL_CTX_set_num_tickets(server_.get(), kind == Kind::kResumed ? 1 : 0);
  SSL_CTX_set_session_cache_mode(client_.get(), SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
  SSL_CTX_set_app_data(client_.get(), this);
  SSL_CTX_sess_set_new_cb(client_.get(), [](SSL* ssl, SSL_SESSION* session) {
    auto& pair = *static_cast<HandshakePair*>(SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl)));
    SSL_SESSION_free(std::exchange(pair.session_, session));
    return 1;  // the reference is ours
  });
}

HandshakePair::~HandshakePair() { SSL_SESSION_free(session_); }

HandshakeCost HandshakePair::Run() {
  HandshakeCost cost;
  BIO* client_bio = nullptr;
  BIO* server_bio = nullptr;
  Require(BIO_new_bio_pair(&client_bio, 1 << 16, &server_bio, 1 << 16) == 1, "bio pair");
  Laps laps;
  const Ssl client(SSL_new(client_.get()));
  SSL_set_bio(client.get(), client_bio, client_bio);
  SSL_set_connect_state(client.get());
  if (kind_ == Kind::kResumed && session_ != nullptr) SSL_set_session(client.get(), session_);
  laps.Lap(cost.client);
  const Ssl server(SSL_new(server_.get()));
  SSL_set_bio(server.get(), server_bio, server_bio);
  SSL_set_accept_state(server.get());
  laps.Lap(cost.server);

  const auto step = [](SSL* ssl) {
    const int done = SSL_do_handshake(ssl);
    Require(done == 1 || SSL_get_error(ssl, done) == SSL_ERROR_WANT_READ, "handshake");
  };
  for (int turn = 0; !SSL_is_init_finished(client.get()) || !SSL_is_init_finished(server.get()); ++turn) {
    Require(turn < kTurnsMax, "the handshake does not end");
    step(client.get());
    laps.Lap(cost.client);
    step(server.get());
    laps.Lap(cost.server);
  }
  // The first data is when each end knows that the other has accepted it. The ticket arrives before the server's.
  const auto send = [&](SSL* from, Microseconds& from_cost, SSL* to, Microseconds& to_cost) {
    char byte = 0;
    Require(SSL_write(from, &byte, 1) == 1, "write");
    laps.Lap(from_cost);
    Require(SSL_read(to, &byte, 1) == 1, "read");
    laps.Lap(to_cost);
  };
  send(server.get(), cost.server, client.get(), cost.client);
  send(client.get(), cost.client, server.get(), cost.server);
  cost.resumed = SSL_session_reused(client.get()) == 1;
  // An end that is let go of without a goodbye takes its session with it.
  SSL_set_shutdown(client.get(), SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
  SSL_set_shutdown(server.get(), SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
  return cost;
}

}  // namespace nova::bench
