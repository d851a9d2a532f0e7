#include "audit/bad_peer.h"

#include <boost/asio/buffer.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/write.hpp>
#include <openssl/err.h>
#include <openssl/ssl.h>

#include "nova/base/clock.h"
#include "nova/tls/certificate.h"
#include "nova/tls/files.h"
#include "nova/tls/openssl.h"

namespace nova::audit {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;
using runtime::Call;
using runtime::CancelHook;
using runtime::Task;
using runtime::use_task;
using std::chrono::hours;
using tls::CertificateSpec;
using tls::HandshakeError;
using tls::SignedCertificate;

using SslPtr = std::unique_ptr<SSL, tls::OpenSslDeleter<&SSL_free>>;

// Longer than any difference between clocks.
constexpr auto kLongAgo = hours(2);
constexpr std::size_t kReadBytes = 16 * 1024;

// What a client of HTTP/2 says first: the connection preface and an empty SETTINGS frame.
constexpr std::string_view kHttp2Preface("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 33);
// Content type "alert" and the major version of every TLS: all that a TLS server may say to somebody who speaks
// something else.
constexpr std::string_view kTlsAlert("\x15\x03", 2);

// As the authority of the stack issues it to the audit.
CertificateSpec GoodLeaf() {
  const WallTime now = Clock::System().WallNow();
  return {.common_name = "audit",
          .names = "URI:" + std::string(tls::kSpiffePrefix) + "audit,DNS:" + tls::ServiceDnsName("audit"),
          .not_before = now - kLongAgo,
          .not_after = now + kLongAgo};
}

CertificateSpec AnAuthority(std::string name) {
  CertificateSpec spec = GoodLeaf();
  spec.common_name = std::move(name);
  spec.names.clear();
  spec.extended_key_usage.clear();
  spec.key_usage = "critical,keyCertSign,cRLSign";
  spec.basic_constraints = "critical,CA:TRUE";
  return spec;
}

Result<Approach> With(Result<SignedCertificate> made) {
  NOVA_TRY(SignedCertificate certificate, std::move(made));
  return Approach{.version = TLS1_3_VERSION, .certificate = std::move(certificate)};
}

Result<Approach> Speaking(int version, const tls::ChannelTlsConfig& identity) {
  NOVA_TRY(Approach approach, GoodApproach(identity));
  approach.version = version;
  return approach;
}

// A leaf with one thing wrong, by `change`.
Result<Approach> Flawed(const std::optional<AuthorityKeys>& authority, void (*change)(CertificateSpec&)) {
  if (!authority) return FailedPrecondition("the key of the authority is not at hand");
  CertificateSpec spec = GoodLeaf();
  change(spec);
  return With(tls::MakeCertificate(spec, &*authority));
}

// A TLS client in memory: what it says and hears are bytes for somebody else to carry.
class TlsClient {
 public:
  static Result<TlsClient> Make(const Approach& approach) {
    const tls::SslContextPtr context(SSL_CTX_new(TLS_client_method()));
    if (context == nullptr) return Internal(tls::OpenSslReason());
    SSL_CTX* const made = context.get();
    // It is the server that has to refuse what is weak or old.
    SSL_CTX_set_security_level(made, 0);
    SSL_CTX_set_verify(made, SSL_VERIFY_NONE, nullptr);
    SSL_CTX_clear_options(made, SSL_OP_NO_TLSv1_1 | SSL_OP_NO_TLSv1_2 | SSL_OP_NO_TLSv1_3);
    std::string protocols(1, static_cast<char>(approach.protocol.size()));
    protocols += approach.protocol;
    const bool ok = SSL_CTX_set_min_proto_version(made, approach.version) == 1 &&
                    SSL_CTX_set_max_proto_version(made, approach.version) == 1 &&
                    SSL_CTX_set_alpn_protos(made, reinterpret_cast<const unsigned char*>(protocols.data()),
                                            static_cast<unsigned>(protocols.size())) == 0;
    if (!ok) return Internal(tls::OpenSslReason());
    if (approach.certificate) NOVA_TRY(Show(made, *approach.certificate));

    TlsClient client;
    client.ssl_.reset(SSL_new(made));
    BIO* const heard = BIO_new(BIO_s_mem());
    BIO* const said = BIO_new(BIO_s_mem());
    if (client.ssl_ == nullptr || heard == nullptr || said == nullptr) return Internal(tls::OpenSslReason());
    // Both are the connection's from here on. Nothing to read is a wait, not the end.
    BIO_set_mem_eof_return(heard, -1);
    SSL_set_bio(client.ssl_.get(), heard, said);
    SSL_set_connect_state(client.ssl_.get());
    return client;
  }

  // Goes on with what was heard. True: it is over, and `reception` says how.
  bool Advance(Reception& reception) {
    ERR_clear_error();
    if (!SSL_is_init_finished(ssl_.get())) {
      const int shaken = SSL_do_handshake(ssl_.get());
      const tls::X509Ptr leaf(SSL_get1_peer_certificate(ssl_.get()));
      if (leaf != nullptr) {
        if (auto pem = tls::ToPem(leaf.get())) reception.leaf_pem = *std::move(pem);
      }
      if (shaken != 1) return IsOver(shaken, reception);
      // Said at once: a server that lets this client in would otherwise wait for it.
      const int written = SSL_write(ssl_.get(), kHttp2Preface.data(), static_cast<int>(kHttp2Preface.size()));
      if (written <= 0) return IsOver(written, reception);
    }
    char bytes[kReadBytes];
    const int read = SSL_read(ssl_.get(), bytes, sizeof bytes);
    if (read <= 0) return IsOver(read, reception);
    reception.served = true;
    return true;
  }

  void Hear(std::string_view bytes) {
    (void)BIO_write(SSL_get_rbio(ssl_.get()), bytes.data(), static_cast<int>(bytes.size()));
  }
  std::string TakeSaid() {
    BIO* const said = SSL_get_wbio(ssl_.get());
    std::string bytes(BIO_ctrl_pending(said), '\0');
    if (!bytes.empty()) (void)BIO_read(said, bytes.data(), static_cast<int>(bytes.size()));
    return bytes;
  }

 private:
  static Result<void> Show(SSL_CTX* context, const SignedCertificate& shown) {
    NOVA_TRY(const auto chain, tls::ParseCertificates(shown.certificate_pem));
    NOVA_TRY(const auto key, tls::ParsePrivateKey(shown.key_pem));
    bool ok =
        SSL_CTX_use_certificate(context, chain.front().get()) == 1 && SSL_CTX_use_PrivateKey(context, key.get()) == 1;
    for (std::size_t i = 1; i < chain.size(); ++i) ok = ok && SSL_CTX_add1_chain_cert(context, chain[i].get()) == 1;
    if (!ok) return Internal(tls::OpenSslReason());
    return Ok();
  }

  bool IsOver(int returned, Reception& reception) {
    switch (SSL_get_error(ssl_.get(), returned)) {
      case SSL_ERROR_WANT_READ:
      case SSL_ERROR_WANT_WRITE:
        return false;
      case SSL_ERROR_ZERO_RETURN:
        reception.end = "closed";
        break;
      default:
        reception.end = tls::OpenSslReason();
    }
    reception.closed = true;
    return true;
  }

  SslPtr ssl_;
};

Task<void> Send(tcp::socket& socket, std::string bytes, error_code& error) {
  if (!bytes.empty()) co_await asio::async_write(socket, asio::buffer(bytes), asio::redirect_error(use_task, error));
  co_return Ok();
}

}  // namespace

HandshakeError ReasonFor(BadPeer peer) {
  switch (peer) {
    case BadPeer::kNoCertificate:
      return HandshakeError::kNoClientCertificate;
    case BadPeer::kExpired:
      return HandshakeError::kCertificateExpired;
    case BadPeer::kNotYetValid:
      return HandshakeError::kCertificateNotYetValid;
    case BadPeer::kSelfSigned:
      return HandshakeError::kCertificateSelfSigned;
    case BadPeer::kWrongName:
      return HandshakeError::kCertificateWrongName;
    case BadPeer::kWrongUsage:
      return HandshakeError::kCertificateWrongUsage;
    case BadPeer::kWeakKey:
      return HandshakeError::kCertificateWeakKey;
    case BadPeer::kUnknownCa:
    case BadPeer::kWithdrawnCa:
    case BadPeer::kBrokenChain:
      return HandshakeError::kCertificateUnknownCa;
    case BadPeer::kPlaintext:
      return HandshakeError::kPlaintext;
    case BadPeer::kTls12:
    case BadPeer::kTls11:
    case BadPeer::kOtherProtocol:
      return HandshakeError::kProtocol;
    case BadPeer::kConnectAndClose:
      break;
  }
  return HandshakeError::kPeerClosed;
}

Result<AuthorityKeys> ReadAuthorityKeys(const std::filesystem::path& directory) {
  AuthorityKeys keys;
  const auto read = [&](const char* name) -> Result<std::string> {
    const auto path = directory / name;
    auto text = tls::ReadFile(path, tls::kFileBytesMax);
    if (!text) return FailedPrecondition("the authority's " + path.string() + ": " + text.error().message());
    return text;
  };
  NOVA_TRY(keys.certificate_pem, read("ca.crt"));
  NOVA_TRY(std::string key, read("ca.key"));
  keys.key_pem = Secret<>(std::move(key));
  return keys;
}

Result<Approach> GoodApproach(const tls::ChannelTlsConfig& identity) {
  NOVA_TRY(tls::CertificateTexts texts, tls::ReadCertificateFiles(identity.files()));
  return With(SignedCertificate{.certificate_pem = std::move(texts.chain_pem), .key_pem = std::move(texts.key_pem)});
}

Result<Approach> MadeApproach(const AuthorityKeys& authority) {
  return With(tls::MakeCertificate(GoodLeaf(), &authority));
}

Result<Approach> MakeApproach(BadPeer peer, const std::optional<AuthorityKeys>& authority,
                              const tls::ChannelTlsConfig& identity) {
  switch (peer) {
    case BadPeer::kNoCertificate:
      return Approach{.version = TLS1_3_VERSION};
    case BadPeer::kExpired:
      return Flawed(authority, [](CertificateSpec& spec) { spec.not_after = spec.not_before + hours(1); });
    case BadPeer::kNotYetValid:
      return Flawed(authority, [](CertificateSpec& spec) { spec.not_before = spec.not_after - hours(1); });
    case BadPeer::kUnknownCa: {
      NOVA_TRY(const SignedCertificate stranger, tls::MakeCertificate(AnAuthority("An authority of nobody"), nullptr));
      return With(tls::MakeCertificate(GoodLeaf(), &stranger));
    }
    case BadPeer::kSelfSigned:
      return With(tls::MakeCertificate(GoodLeaf(), nullptr));
    case BadPeer::kWrongName:
      return Flawed(authority,
                    [](CertificateSpec& spec) { spec.names = "URI:spiffe://elsewhere/audit,DNS:audit.elsewhere"; });
    case BadPeer::kWrongUsage:
      return Flawed(authority, [](CertificateSpec& spec) { spec.extended_key_usage = "serverAuth"; });
    case BadPeer::kWithdrawnCa:
      if (!authority) return FailedPrecondition("the key of the authority is not at hand");
      return MadeApproach(*authority);
    case BadPeer::kWeakKey:
      return Flawed(authority, [](CertificateSpec& spec) { spec.key = "RSA-1024"; });
    case BadPeer::kBrokenChain: {
      if (!authority) return FailedPrecondition("the key of the authority is not at hand");
      NOVA_TRY(const SignedCertificate between,
               tls::MakeCertificate(AnAuthority("An intermediate that is not shown"), &*authority));
      return With(tls::MakeCertificate(GoodLeaf(), &between));
    }
    case BadPeer::kPlaintext:
      return Approach{.manner = Approach::Manner::kPlaintext};
    case BadPeer::kTls12:
      return Speaking(TLS1_2_VERSION, identity);
    case BadPeer::kTls11:
      return Speaking(TLS1_1_VERSION, identity);
    case BadPeer::kOtherProtocol: {
      NOVA_TRY(Approach approach, GoodApproach(identity));
      approach.protocol = "http/1.1";
      return approach;
    }
    case BadPeer::kConnectAndClose:
      break;
  }
  return Approach{.manner = Approach::Manner::kConnectAndClose};
}

Task<Reception> Knock(Call& call, HostPort target, Approach approach) {
  std::optional<TlsClient> client;
  if (approach.manner == Approach::Manner::kTls) {
    NOVA_CO_TRY(client, TlsClient::Make(approach));
  }
  tcp::socket socket(call.strand());
  const CancelHook hook(call, [&socket](const Error&) {
    error_code ignored;
    socket.close(ignored);
  });
  NOVA_CO_TRY(co_await Open(call, target, socket));

  Reception reception;
  if (approach.manner == Approach::Manner::kConnectAndClose) {
    reception.closed = true;
    co_return reception;
  }
  error_code error;
  std::string said = client ? std::string() : std::string(kHttp2Preface);
  std::string heard;
  std::string buffer(kReadBytes, '\0');
  for (;;) {
    const bool over = client && client->Advance(reception);
    if (client) said = client->TakeSaid();
    // A peer that refuses may have closed already; what it said by then can still be read.
    NOVA_CO_TRY(co_await Send(socket, std::exchange(said, {}), error));
    if (over) co_return reception;
    const std::size_t size =
        co_await socket.async_read_some(asio::buffer(buffer), asio::redirect_error(use_task, error));
    const std::string_view bytes(buffer.data(), size);
    if (client) {
      client->Hear(bytes);
    } else {
      heard += bytes;
      reception.served = !kTlsAlert.starts_with(std::string_view(heard).substr(0, kTlsAlert.size()));
      if (reception.served) co_return reception;
    }
    if (!error) continue;
    // The last bytes may hold the alert.
    if (client && size > 0 && client->Advance(reception)) co_return reception;
    // A reset is a close as well; the end of our patience is not.
    reception.closed = call.Check().ok();
    reception.end = reception.closed ? error.message() : "kept open";
    co_return reception;
  }
}

}  // namespace nova::audit
