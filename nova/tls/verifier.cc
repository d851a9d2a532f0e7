#include "nova/tls/verifier.h"

#include <functional>
#include <grpcpp/security/tls_certificate_verifier.h>
#include <grpcpp/support/status.h>
#include <string_view>
#include <utility>

#include "nova/tls/certificate.h"
#include "nova/tls/handshakes.h"

namespace nova::tls {
namespace {

using grpc::experimental::ExternalCertificateVerifier;
using Request = grpc::experimental::TlsCustomVerificationCheckRequest;

void CountIfRefused(Side side, const grpc::Status& status) {
  // A check that was cancelled has refused nobody.
  if (!status.ok() && status.error_code() != grpc::StatusCode::CANCELLED)
    CountHandshakeError(side, HandshakeError::kCertificateWrongName);
}

class ServerNameVerifier final : public ExternalCertificateVerifier {
 public:
  bool Verify(Request* request, std::function<void(grpc::Status)> callback, grpc::Status* sync_status) override {
    // Answers at once in every version so far; if it ever does not, it is counted in its own time.
    const bool answered = names_.Verify(
        request,
        [callback = std::move(callback)](const grpc::Status& status) {
          CountIfRefused(Side::kClient, status);
          callback(status);
        },
        sync_status);
    if (answered) CountIfRefused(Side::kClient, *sync_status);
    return answered;
  }
  void Cancel(Request* request) override { names_.Cancel(request); }

 private:
  grpc::experimental::HostNameCertificateVerifier names_;
};

bool NamesPrincipal(const Request& request) {
  const auto uris = request.uri_names();
  if (uris.size() != 1) return false;
  std::string_view uri(uris.front().data(), uris.front().size());
  if (!uri.starts_with(kSpiffePrefix)) return false;
  uri.remove_prefix(kSpiffePrefix.size());
  return IsPrincipal(uri);
}

class PrincipalVerifier final : public ExternalCertificateVerifier {
 public:
  bool Verify(Request* request, std::function<void(grpc::Status)> /*callback*/, grpc::Status* sync_status) override {
    // Where certificates are required, TLS has refused those who show none already.
    if (!request->peer_cert().empty() && !NamesPrincipal(*request))
      *sync_status = {grpc::StatusCode::UNAUTHENTICATED, "The client's certificate names no principal."};
    CountIfRefused(Side::kServer, *sync_status);
    return true;
  }
  void Cancel(Request* /*request*/) override {}
};

}  // namespace

std::shared_ptr<grpc::experimental::CertificateVerifier> MakeServerNameVerifier() {
  return ExternalCertificateVerifier::Create<ServerNameVerifier>();
}

std::shared_ptr<grpc::experimental::CertificateVerifier> MakePrincipalVerifier() {
  return ExternalCertificateVerifier::Create<PrincipalVerifier>();
}

}  // namespace nova::tls
