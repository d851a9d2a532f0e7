#include "nova/tls/credentials.h"

#include <grpc/grpc_security_constants.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <grpcpp/support/channel_arguments.h>
#include <utility>

namespace nova::tls {
namespace {

using grpc::experimental::FileWatcherCertificateProvider;

constexpr unsigned kRefreshSeconds = 1;

std::shared_ptr<FileWatcherCertificateProvider> WatchPublished(const IdentityPublisher& publisher) {
  return std::make_shared<FileWatcherCertificateProvider>(publisher.key_path().string(),
                                                          publisher.certificate_path().string(),
                                                          publisher.ca_path().string(), kRefreshSeconds);
}

}  // namespace

// In gRPC 1.51 the credentials take over the options' only reference to their C part. So options are made for one use,
// here and below, and never kept.
std::shared_ptr<grpc::ServerCredentials> MakeServerCredentials(const IdentityPublisher& publisher,
                                                               ClientCertificate client_certificate) {
  grpc::experimental::TlsServerCredentialsOptions options(WatchPublished(publisher));
  options.watch_identity_key_cert_pairs();
  options.watch_root_certs();
  // Never one of the kinds that do not verify: PeerPrincipal trusts what gRPC reports.
  options.set_cert_request_type(client_certificate == ClientCertificate::kRequired
                                    ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                                    : GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_AND_VERIFY);
  return grpc::experimental::TlsServerCredentials(options);
}

std::shared_ptr<grpc::ServerCredentials> MakePlaintextServerCredentials() { return grpc::InsecureServerCredentials(); }

void ChannelCredentials::ApplyTo(grpc::ChannelArguments& arguments) const {
  // Becomes the name that gRPC's host name verifier checks, and the channel's default authority.
  if (!target_name.empty()) arguments.SetSslTargetNameOverride(target_name);
}

ChannelIdentity::ChannelIdentity(const IdentityPublisher& publisher) : encrypted_(true) {
  grpc::experimental::TlsChannelCredentialsOptions options;
  options.set_certificate_provider(WatchPublished(publisher));
  options.watch_identity_key_cert_pairs();
  options.watch_root_certs();
  // The chain is verified by OpenSSL and the name by gRPC's host name verifier: both are the defaults.
  credentials_ = grpc::experimental::TlsCredentials(options);
}

ChannelIdentity::ChannelIdentity(std::shared_ptr<grpc::ChannelCredentials> credentials, bool encrypted)
    : credentials_(std::move(credentials)), encrypted_(encrypted) {}

ChannelIdentity ChannelIdentity::Plaintext() { return {grpc::InsecureChannelCredentials(), false}; }

ChannelCredentials ChannelIdentity::For(std::string_view principal) const {
  return {.credentials = credentials_, .target_name = encrypted_ ? ServiceDnsName(principal) : std::string()};
}

}  // namespace nova::tls
