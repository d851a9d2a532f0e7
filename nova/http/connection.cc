#include "nova/http/connection.h"

#include <boost/asio/buffer.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/ssl/error.hpp>
#include <boost/asio/write.hpp>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>
#include <utility>

#include "nova/http/parse.h"

namespace nova::http {
namespace {

namespace asio = boost::asio;
namespace ssl = boost::asio::ssl;
using runtime::Task;
using runtime::use_task;

Error Broken(const std::string& what, std::string_view reason) {
  return Unavailable("the server could not be reached", what + ": " + std::string(reason));
}

// The server must be who its name says, by a name or, for an address, by that address.
bool RequireName(SSL* tls, const std::string& host) {
  boost::system::error_code numeric;
  asio::ip::make_address(host, numeric);
  X509_VERIFY_PARAM* const parameters = SSL_get0_param(tls);
  if (!numeric) return X509_VERIFY_PARAM_set1_ip_asc(parameters, host.c_str()) == 1;
  X509_VERIFY_PARAM_set_hostflags(parameters, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
  return X509_VERIFY_PARAM_set1_host(parameters, host.c_str(), host.size()) == 1 &&
         SSL_set_tlsext_host_name(tls, host.c_str()) == 1;
}

// The server's certificate was refused; `authorities` are those it was held against.
std::string CertificateRefused(long why, const std::string& host, const std::string& authorities) {
  const std::string reason = X509_verify_cert_error_string(why);
  switch (why) {
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
      return reason + ": it is not for " + host;
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_CERT_SIGNATURE_FAILURE:
      return reason + ": none of " + authorities + " signed it";
    default:
      return reason;  // such as "certificate has expired"
  }
}

// Why there is no TLS, where the library's own words would not tell.
std::string HandshakeFailed(const boost::system::error_code& error) {
  if (error == ssl::error::stream_truncated || error == asio::error::eof)
    return "the server closed the connection during the TLS handshake";
  if (error.category() != asio::error::get_ssl_category()) return error.message();
  switch (ERR_GET_REASON(static_cast<unsigned long>(error.value()))) {
    case SSL_R_TLSV1_ALERT_PROTOCOL_VERSION:  // as the server says
    case SSL_R_UNSUPPORTED_PROTOCOL:          // as this end sees it
      return "the server does not speak TLS 1.3";
    case SSL_R_WRONG_VERSION_NUMBER:
      return "the server does not speak TLS";
    default:
      return "TLS: " + error.message();
  }
}

}  // namespace

Task<void> Connection::Connect(Endpoints endpoints) {
  boost::system::error_code error = asio::error::host_not_found;
  for (const auto& endpoint : endpoints) {
    boost::system::error_code ignored;
    socket_.close(ignored);
    co_await socket_.async_connect(endpoint, asio::redirect_error(use_task, error));
    // Or the next attempt would open it again.
    if (!error || closed_) break;
  }
  if (error || closed_) co_return Broken(what_, error.message());
  // Head and body are two writes, and the second is not to wait for the peer's word about the first.
  boost::system::error_code ignored;
  socket_.set_option(asio::ip::tcp::no_delay(true), ignored);
  co_return Ok();
}

Task<void> Connection::StartTls(std::string host, std::string ca_path) {
  context_.emplace(ssl::context::tls_client);
  SSL_CTX* const native = context_->native_handle();
  SSL_CTX_set_min_proto_version(native, TLS1_3_VERSION);
  boost::system::error_code error;
  if (ca_path.empty()) {
    context_->set_default_verify_paths(error);
  } else {
    context_->load_verify_file(ca_path, error);
  }
  const std::string authorities = ca_path.empty() ? "the system's authorities" : "the authorities in " + ca_path;
  if (error)
    co_return InvalidArgument(authorities + " cannot be read; name a PEM file of certificates",
                              what_ + ": " + error.message());
  tls_.emplace(socket_, *context_);
  tls_->set_verify_mode(ssl::verify_peer, error);
  if (error || !RequireName(tls_->native_handle(), host)) co_return Internal("TLS cannot be set up", what_);
  co_await tls_->async_handshake(ssl::stream_base::client, asio::redirect_error(use_task, error));
  if (!error) co_return Ok();
  const long verified = SSL_get_verify_result(tls_->native_handle());
  if (verified != X509_V_OK)
    co_return Unavailable("the server's certificate is not good",
                          what_ + ": " + CertificateRefused(verified, host, authorities));
  co_return Broken(what_, HandshakeFailed(error));
}

Task<void> Connection::Write(std::string_view bytes) {
  boost::system::error_code error;
  if (tls_) {
    co_await asio::async_write(*tls_, asio::buffer(bytes), asio::redirect_error(use_task, error));
  } else {
    co_await asio::async_write(socket_, asio::buffer(bytes), asio::redirect_error(use_task, error));
  }
  if (error) co_return Broken(what_, error.message());
  co_return Ok();
}

Task<bool> Connection::Read(beast::flat_buffer& buffer) {
  boost::system::error_code error;
  std::size_t size = 0;
  if (tls_) {
    size = co_await tls_->async_read_some(buffer.prepare(kReadChunk), asio::redirect_error(use_task, error));
  } else {
    size = co_await socket_.async_read_some(buffer.prepare(kReadChunk), asio::redirect_error(use_task, error));
  }
  buffer.commit(size);
  if (error == asio::error::eof) co_return false;
  if (error) co_return Broken(what_, error.message());
  co_return true;
}

void Connection::Close() {
  closed_ = true;
  boost::system::error_code ignored;
  socket_.close(ignored);
}

}  // namespace nova::http
