// Certificates are judged before they are used. gRPC takes whatever lies in its files, and a key that does not match
// its certificate breaks every new handshake; so everything Nova serves with has passed the checks of this header, and
// a set that fails one of them is refused with one line that names the setting, the file and the remedy.
//
//   NOVA_TRY(auto set, LoadCertificateSet({.certificate = {.path = "tls.crt"}, .key = {.path = "tls.key"},
//                                          .ca = {.path = "ca.crt"}}, Usage::kServer, clock));
//   set.info.principal;  // "identity"
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "nova/base/clock.h"
#include "nova/base/result.h"
#include "nova/base/secret.h"

namespace nova::tls {

// A principal is the name in the certificate's only URI name, `spiffe://nova/<principal>`.
inline constexpr std::string_view kSpiffePrefix = "spiffe://nova/";
// A principal's certificate also carries the DNS name `<principal>.nova.svc.cluster.local`; channels verify it.
inline constexpr std::string_view kServiceDomain = ".nova.svc.cluster.local";
// How far the clocks of two machines may differ before a certificate counts as expired or not yet valid.
inline constexpr std::chrono::seconds kClockSkewMax{60};
// A certificate file larger than this is refused unread; real ones have a few kilobytes.
inline constexpr std::size_t kFileBytesMax = 1 << 20;
inline constexpr int kRsaBitsMin = 2048;
inline constexpr int kEcBitsMin = 256;

// Lower-case letters, digits and hyphens, at most 63, beginning with a letter: also a valid DNS label.
bool IsPrincipal(std::string_view name);
// The DNS name that the certificate of `principal` carries.
std::string ServiceDnsName(std::string_view principal);

// Which end of a connection a certificate is presented at; its extended key usage must allow that end.
enum class Usage { kServer, kClient };

struct CertificateFile {
  std::string path;
  // The setting the path came from, such as GRPC_SERVER_KEY_PATH, so that an error can name it. May be empty.
  std::string variable;
};

struct CertificateFiles {
  CertificateFile certificate;  // PEM: the leaf first, then intermediates if there are any
  CertificateFile key;          // PEM, not encrypted
  CertificateFile ca;           // PEM: one or more authorities
};

// What the three files hold, not judged yet.
struct CertificateTexts {
  std::string chain_pem;
  Secret<> key_pem;
  std::string ca_pem;
};

struct CertificateInfo {
  std::string principal;
  std::vector<std::string> dns_names;
  std::vector<std::string> ip_addresses;
  WallTime not_before;
  WallTime not_after;
  std::string serial;  // hexadecimal, upper case
  std::string issuer;  // the distinguished name, such as "CN=Nova development CA"
};

// One that is trusted.
struct AuthorityInfo {
  std::string subject;      // the distinguished name
  std::string fingerprint;  // SHA-256 of the certificate, hexadecimal, upper case
  WallTime not_after;
  bool operator==(const AuthorityInfo&) const = default;
};

// Texts that passed every check, and what their leaf says.
struct CertificateSet {
  std::string chain_pem;
  // The chain that was verified, from the leaf to the authority itself. Shown to peers, because OpenSSL builds, and
  // verifies, what is missing of a chain anew in each handshake.
  std::string complete_chain_pem;
  Secret<> key_pem;
  std::string ca_pem;
  CertificateInfo info;
  std::vector<AuthorityInfo> authorities;  // those of ca_pem, in its order
};

// Of a client that only verifies its server.
struct AuthoritySet {
  std::string pem;
  std::vector<AuthorityInfo> authorities;  // those of pem, in its order
};

// Errors: FAILED_PRECONDITION if the file cannot be read.
Result<std::string> ReadCertificateFile(const CertificateFile& file);
// Errors: as ReadCertificateFile.
Result<CertificateTexts> ReadCertificateFiles(const CertificateFiles& files);

// Judges texts that were read from `files` (which serve the messages only). Checks, in this order: each text is PEM;
// the key belongs to the leaf; RSA of at least kRsaBitsMin or EC of at least kEcBitsMin bits; exactly one URI name, and
// it is a principal; the extended key usage allows `usage`; the chain verifies up to one of the authorities; no
// certificate of that chain is expired or not yet valid. Errors: INVALID_ARGUMENT, one line.
Result<CertificateSet> ValidateCertificateTexts(CertificateTexts texts, const CertificateFiles& files, Usage usage,
                                                const Clock& clock);

// Reads and judges. Errors: as the two above.
Result<CertificateSet> LoadCertificateSet(const CertificateFiles& files, Usage usage, const Clock& clock);

// Judges a text that was read from `file`: each certificate of it is an authority, and one at least has not expired.
// Errors: INVALID_ARGUMENT, one line.
Result<AuthoritySet> ValidateAuthorities(std::string pem, const CertificateFile& file, const Clock& clock);

// What the first certificate of a PEM text says, for people; it is not judged, and has no principal if it names none.
// Errors: INVALID_ARGUMENT with the bare reason.
Result<CertificateInfo> ReadCertificateInfo(std::string_view pem);

}  // namespace nova::tls
