#include "nova/tls/protocol.h"

#include <string_view>

#include "nova/tls/openssl.h"

namespace nova::tls {
namespace {

// `-ALL` first: the list begins with every protocol. No tickets: every connection makes a full handshake, and so has
// its peer's certificate checked by the authorities of that moment.
constexpr std::string_view kOpenSslConfiguration = R"(
openssl_conf = nova
[nova]
ssl_conf = nova_ssl
[nova_ssl]
system_default = nova_system_default
[nova_system_default]
Protocol = -ALL, TLSv1.3
NumTickets = 0
)";

Error Failure(std::string_view what) {
  return FailedPrecondition("OpenSSL cannot be set to TLS 1.3 (" + std::string(what) +
                            "); install OpenSSL 3 of this distribution and unset OPENSSL_CONF");
}

Result<void> Apply() {
  // OpenSSL's own configuration file first: loaded later, it would replace ours.
  if (OPENSSL_init_ssl(OPENSSL_INIT_LOAD_CONFIG, nullptr) != 1) return Failure(OpenSslReason());
  const ConfPtr configuration(NCONF_new(nullptr));
  const BioPtr text(BIO_new_mem_buf(kOpenSslConfiguration.data(), static_cast<int>(kOpenSslConfiguration.size())));
  long error_line = 0;
  if (configuration == nullptr || text == nullptr ||
      NCONF_load_bio(configuration.get(), text.get(), &error_line) != 1 ||
      CONF_modules_load(configuration.get(), nullptr, 0) != 1)
    return Failure(OpenSslReason());

  // Trust the effect, not the return value.
  const SslContextPtr context(SSL_CTX_new(TLS_method()));
  if (context == nullptr) return Failure(OpenSslReason());
  constexpr auto kOlder = SSL_OP_NO_SSLv3 | SSL_OP_NO_TLSv1 | SSL_OP_NO_TLSv1_1 | SSL_OP_NO_TLSv1_2;
  if ((SSL_CTX_get_options(context.get()) & (kOlder | SSL_OP_NO_TLSv1_3)) != kOlder)
    return Failure("other protocols stay enabled");
  return Ok();
}

}  // namespace

Result<void> RequireTls13() {
  static const Result<void> applied = Apply();
  return applied;
}

}  // namespace nova::tls
