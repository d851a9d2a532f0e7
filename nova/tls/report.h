// What a process has in memory, for its status page and for whoever asks it there: a certificate that lies on the disk
// is of no use before the process has taken it up.
//
//   status = AddCertificates(std::move(status), {Describe("server", *publisher)});   // in the process
//   NOVA_TRY(auto certificates, CertificatesOf(status));                             // in `nova certs`
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "nova/base/result.h"
#include "nova/tls/certificate.h"
#include "nova/tls/publisher.h"

namespace nova::tls {

struct CertificateInUse {
  // Which end of connections it is shown at: "server" or "client".
  std::string side;
  // Without the names, which the principal stands for.
  CertificateInfo leaf;
  // Whom that end trusts.
  std::vector<AuthorityInfo> authorities;
};

// What the publisher has published. Thread-safe, does not wait.
CertificateInUse Describe(std::string_view side, const IdentityPublisher& publisher);

// Adds "certificates" to a JSON object:
// [{"side","principal","serial","not_before","not_after","issuer","authorities":[{"subject","fingerprint","not_after"}]}]
// with times such as "2026-01-31T12:00:00Z". A text that is no JSON object is returned as it is.
std::string AddCertificates(std::string object, const std::vector<CertificateInUse>& certificates);

// Reads that again. Errors: INVALID_ARGUMENT if it is not there, or not of that form.
Result<std::vector<CertificateInUse>> CertificatesOf(std::string_view object);

}  // namespace nova::tls
