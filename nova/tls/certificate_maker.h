// Makes certificates of any kind, good and bad: the authority's, and those that tests and the audit are refused with.
#pragma once

#include <string>

#include "nova/base/clock.h"
#include "nova/base/result.h"
#include "nova/base/secret.h"

namespace nova::tls {

// What a certificate says; it is not judged. Empty extensions are left out.
struct CertificateSpec {
  std::string common_name;
  // A curve of OpenSSL's ("P-256"), "ED25519", or "RSA-<bits>".
  std::string key = "P-256";
  // In OpenSSL's notation: "URI:spiffe://nova/identity,DNS:localhost,IP:127.0.0.1".
  std::string names = {};
  std::string extended_key_usage = "serverAuth,clientAuth";
  std::string key_usage = "critical,digitalSignature";
  std::string basic_constraints = "critical,CA:FALSE";
  WallTime not_before;
  WallTime not_after;
};

struct SignedCertificate {
  std::string certificate_pem;
  Secret<> key_pem;  // unencrypted PKCS #8
};

// With a new key and a random serial number, signed by `issuer`, or by itself if that is null. Errors:
// INVALID_ARGUMENT for a key or an extension that OpenSSL does not know, and for an issuer that cannot be read.
Result<SignedCertificate> MakeCertificate(const CertificateSpec& spec, const SignedCertificate* issuer);

}  // namespace nova::tls
