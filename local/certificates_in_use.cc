#include "local/certificates_in_use.h"

#include <algorithm>
#include <array>
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/write.hpp>
#include <fmt/format.h>
#include <memory>
#include <openssl/bio.h>
#include <openssl/pem.h>
#include <optional>
#include <utility>

#include "local/certificates.h"
#include "local/redis_server.h"

namespace nova::local {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;

constexpr std::string_view kPortSide = "port";
// Enough for what is under way on this machine.
constexpr Duration kCloseLimit = std::chrono::milliseconds(20);
// The message that asks a server of PostgreSQL's protocol for TLS: its length, and a number that is no version.
constexpr std::array<unsigned char, 8> kPostgresTlsRequest{0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f};

struct FreeX509 {
  void operator()(X509* certificate) const { ::X509_free(certificate); }
};
struct FreeBio {
  void operator()(BIO* bio) const { ::BIO_free_all(bio); }
};

Result<tls::CertificateInfo> Describe(X509* certificate) {
  const std::unique_ptr<BIO, FreeBio> pem(::BIO_new(::BIO_s_mem()));
  if (pem == nullptr || ::PEM_write_bio_X509(pem.get(), certificate) != 1)
    return Internal("a certificate cannot be written as PEM");
  char* text = nullptr;
  const long size = ::BIO_get_mem_data(pem.get(), &text);
  return tls::ReadCertificateInfo({text, static_cast<std::size_t>(size)});
}

// One connection, whose operations all end by one time.
class Look {
 public:
  Look(int port, Duration limit)
      : port_(port), end_(Clock::System().Now() + limit), tls_(asio::ssl::context::tls_client) {
    // Whatever is shown is to be seen; nothing is sent to whoever shows it.
    tls_.set_verify_mode(asio::ssl::verify_none);
  }

  Result<tls::CertificateInfo> Run(TlsStart start) {
    NOVA_TRY(Await([this](auto handler) {
      stream_.lowest_layer().async_connect({asio::ip::address_v4::loopback(), static_cast<asio::ip::port_type>(port_)},
                                           handler);
    }));
    if (start == TlsStart::kPostgres) {
      NOVA_TRY(Await([this](auto handler) {
        asio::async_write(stream_.next_layer(), asio::buffer(kPostgresTlsRequest), handler);
      }));
      std::array<char, 1> answer{};
      NOVA_TRY(Await([&](auto handler) { asio::async_read(stream_.next_layer(), asio::buffer(answer), handler); }));
      if (answer[0] != 'S') return Unavailable(fmt::format("port {} does not speak TLS", port_));
    }
    NOVA_TRY(Await([this](auto handler) { stream_.async_handshake(asio::ssl::stream_base::client, handler); }));
    const std::unique_ptr<X509, FreeX509> leaf(::SSL_get1_peer_certificate(stream_.native_handle()));
    if (leaf == nullptr) return Unavailable(fmt::format("port {} shows no certificate", port_));
    // An orderly end, which servers do not log. Whether they answer changes nothing.
    end_ = std::min(end_, Clock::System().Now() + kCloseLimit);
    static_cast<void>(Await([this](auto handler) { stream_.async_shutdown(handler); }));
    return Describe(leaf.get());
  }

 private:
  template <class Start>
  Result<void> Await(Start start) {
    std::optional<error_code> done;
    start([&](error_code error, std::size_t = 0) { done = error; });
    context_.restart();
    context_.run_until(end_);
    if (!done) {
      error_code ignored;
      stream_.lowest_layer().close(ignored);
      context_.restart();
      context_.run();
      return DeadlineExceeded(fmt::format("port {} does not answer", port_));
    }
    if (*done) return Unavailable(fmt::format("port {}: {}", port_, done->message()));
    return Ok();
  }

  const int port_;
  SteadyTime end_;
  asio::io_context context_{1};
  asio::ssl::context tls_;
  asio::ssl::stream<asio::ip::tcp::socket> stream_{context_, tls_};
};

std::vector<std::string> Fingerprints(const std::vector<tls::AuthorityInfo>& authorities) {
  std::vector<std::string> fingerprints;
  for (const tls::AuthorityInfo& authority : authorities) fingerprints.push_back(authority.fingerprint);
  std::ranges::sort(fingerprints);
  return fingerprints;
}

}  // namespace

CertificateOnDisk ReadFromDisk(const std::filesystem::path& folder, const Clock& clock) {
  CertificateOnDisk on_disk{.folder = folder, .leaf = {}, .authorities = {}, .problem = {}};
  const tls::CertificateFiles files = FilesOf(folder);
  const auto texts = tls::ReadCertificateFiles(files);
  if (!texts) {
    on_disk.problem = texts.error().message();
    return on_disk;
  }
  for (const tls::Usage usage : {tls::Usage::kServer, tls::Usage::kClient}) {
    auto set = tls::ValidateCertificateTexts(*texts, files, usage, clock);
    if (set) {
      on_disk.leaf = std::move(set->info);
      on_disk.authorities = std::move(set->authorities);
      continue;
    }
    on_disk.problem = set.error().message();
    if (auto info = tls::ReadCertificateInfo(texts->chain_pem)) on_disk.leaf = *std::move(info);
    break;
  }
  return on_disk;
}

bool ProcessCertificates::Has(const CertificateOnDisk& on_disk) const {
  return !certificates.empty() && std::ranges::all_of(certificates, [&](const tls::CertificateInUse& certificate) {
    return certificate.leaf.serial == on_disk.leaf.serial &&
           (certificate.side == kPortSide ||
            Fingerprints(certificate.authorities) == Fingerprints(on_disk.authorities));
  });
}

Result<tls::CertificateInfo> LookAtPort(int port, TlsStart start, Duration limit) {
  return Look(port, limit).Run(start);
}

ProcessCertificates UseProbe::Ask(const ComponentState& component) {
  ProcessCertificates seen{.component = component, .certificates = {}, .problem = {}};
  if (component.pid == 0) {
    seen.problem = "it does not run";
    return seen;
  }
  if (component.admin_port == 0) {
    const TlsStart start = component.name == kRedisPrincipal ? TlsStart::kAtOnce : TlsStart::kPostgres;
    auto leaf = LookAtPort(component.port, start, kAnswerLimit);
    if (!leaf) {
      seen.problem = leaf.error().message();
      return seen;
    }
    seen.certificates.push_back({.side = std::string(kPortSide), .leaf = *std::move(leaf), .authorities = {}});
    return seen;
  }
  const auto status = http_.Status(component.admin_port, kAnswerLimit);
  if (!status) {
    seen.problem = fmt::format("its admin port {} does not answer", component.admin_port);
    return seen;
  }
  auto certificates = tls::CertificatesOf(*status);
  if (!certificates) {
    seen.problem = "its status page does not tell; it is of an older build";
  } else if (certificates->empty()) {
    seen.problem = "it runs without TLS";
  } else {
    seen.certificates = *std::move(certificates);
  }
  return seen;
}

}  // namespace nova::local
