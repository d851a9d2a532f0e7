#include "nova/tls/openssl.h"

#include <algorithm>
#include <ctime>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <utility>

namespace nova::tls {
namespace {

// Without it OpenSSL would ask for the password of an encrypted key on the terminal.
int NoPassword(char*, int, int, void*) { return -1; }

}  // namespace

std::string OpenSslReason() {
  const unsigned long code = ERR_peek_last_error();
  ERR_clear_error();
  const char* reason = ERR_reason_error_string(code);
  return reason != nullptr ? reason : "unknown OpenSSL error";
}

Result<std::vector<X509Ptr>> ParseCertificates(std::string_view pem) {
  const BioPtr bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  if (bio == nullptr) return InvalidArgument(OpenSslReason());
  ERR_clear_error();
  std::vector<X509Ptr> certificates;
  while (X509* certificate = PEM_read_bio_X509(bio.get(), nullptr, &NoPassword, nullptr))
    certificates.emplace_back(certificate);
  // The end of the text shows as an error as well.
  const unsigned long code = ERR_peek_last_error();
  const bool at_end = ERR_GET_LIB(code) == ERR_LIB_PEM && ERR_GET_REASON(code) == PEM_R_NO_START_LINE;
  const std::string reason = OpenSslReason();
  if (!at_end) return InvalidArgument(reason);
  if (certificates.empty()) return InvalidArgument("no certificate in it");
  return certificates;
}

Result<PkeyPtr> ParsePrivateKey(const Secret<>& pem) {
  const std::string& text = pem.Expose();
  const BioPtr bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
  if (bio == nullptr) return InvalidArgument(OpenSslReason());
  PkeyPtr key(PEM_read_bio_PrivateKey(bio.get(), nullptr, &NoPassword, nullptr));
  const std::string reason = key == nullptr ? OpenSslReason() : std::string();
  if (key != nullptr) return key;
  if (text.contains("ENCRYPTED")) return InvalidArgument("the key is encrypted");
  return InvalidArgument(text.contains("PRIVATE KEY") ? reason : "no private key in it");
}

Result<std::string> ToPem(X509* certificate) {
  const BioPtr bio(BIO_new(BIO_s_mem()));
  if (bio == nullptr || PEM_write_bio_X509(bio.get(), certificate) != 1) return Internal(OpenSslReason());
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &data);
  return std::string(data, static_cast<std::size_t>(size));
}

Result<Secret<>> ToPem(EVP_PKEY* key) {
  const BioPtr bio(BIO_new(BIO_s_secmem()));
  if (bio == nullptr || PEM_write_bio_PKCS8PrivateKey(bio.get(), key, nullptr, nullptr, 0, nullptr, nullptr) != 1)
    return Internal(OpenSslReason());
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &data);
  return Secret<>(std::string(data, static_cast<std::size_t>(size)));
}

WallTime ToWallTime(const ASN1_TIME* time) {
  std::tm parts{};
  if (ASN1_TIME_to_tm(time, &parts) != 1) return WallTime::min();
  const std::chrono::seconds since_epoch(timegm(&parts));
  const auto last = std::chrono::floor<std::chrono::seconds>(WallTime::max().time_since_epoch());
  return WallTime(std::min(since_epoch, last));
}

}  // namespace nova::tls
