#include "nova/tls/credentials.h"

#include <grpc/grpc_security_constants.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <grpcpp/support/channel_arguments.h>
#include <mutex>
#include <utility>

#include "nova/tls/verifier.h"

namespace nova::tls {
namespace {

using grpc::experimental::FileWatcherCertificateProvider;

constexpr unsigned kRefreshSeconds = 1;

std::shared_ptr<FileWatcherCertificateProvider> WatchPublished(const IdentityPublisher& publisher) {
  return std::make_shared<FileWatcherCertificateProvider>(publisher.key_path().string(),
                                                          publisher.certificate_path().string(),
                                                          publisher.ca_path().string(), kRefreshSeconds);
}

// In gRPC 1.51 the credentials take over the options' only reference to their C part. So options are made for one use,
// here and below, and never kept.
std::shared_ptr<grpc::ChannelCredentials> MakeChannelCredentials(const IdentityPublisher& publisher) {
  grpc::experimental::TlsChannelCredentialsOptions options;
  // The provider reads the files as it is made: already the first handshake uses what is published now.
  options.set_certificate_provider(WatchPublished(publisher));
  options.watch_identity_key_cert_pairs();
  options.watch_root_certs();
  // The chain is verified by OpenSSL, which is the default; then the name.
  options.set_certificate_verifier(MakeServerNameVerifier());
  return grpc::experimental::TlsCredentials(options);
}

}  // namespace

std::shared_ptr<grpc::ServerCredentials> MakeServerCredentials(const IdentityPublisher& publisher,
                                                               ClientCertificate client_certificate) {
  grpc::experimental::TlsServerCredentialsOptions options(WatchPublished(publisher));
  options.watch_identity_key_cert_pairs();
  options.watch_root_certs();
  // Never one of the kinds that do not verify: PeerPrincipal trusts what gRPC reports.
  options.set_cert_request_type(client_certificate == ClientCertificate::kRequired
                                    ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                                    : GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_AND_VERIFY);
  options.set_certificate_verifier(MakePrincipalVerifier());
  return grpc::experimental::TlsServerCredentials(options);
}

std::shared_ptr<grpc::ServerCredentials> MakePlaintextServerCredentials() { return grpc::InsecureServerCredentials(); }

void ChannelCredentials::ApplyTo(grpc::ChannelArguments& arguments) const {
  // Becomes the name that gRPC's host name verifier checks, and the channel's default authority.
  if (!target_name.empty()) arguments.SetSslTargetNameOverride(target_name);
}

struct ChannelIdentity::State {
  const IdentityPublisher* const publisher;  // null without TLS
  std::mutex mutex;
  // Guarded by mutex.
  std::shared_ptr<grpc::ChannelCredentials> credentials;  // null until they are needed
  std::uint64_t trust_version = 0;                        // of `credentials`
};

ChannelIdentity::ChannelIdentity(const IdentityPublisher& publisher)
    : state_(new State{.publisher = &publisher, .mutex = {}, .credentials = nullptr}) {}

ChannelIdentity::ChannelIdentity(std::shared_ptr<State> state) : state_(std::move(state)) {}

ChannelIdentity ChannelIdentity::Plaintext() {
  return ChannelIdentity(std::shared_ptr<State>(
      new State{.publisher = nullptr, .mutex = {}, .credentials = grpc::InsecureChannelCredentials()}));
}

std::uint64_t ChannelIdentity::trust_version() const {
  return state_->publisher == nullptr ? 0 : state_->publisher->trust_version();
}

ChannelCredentials ChannelIdentity::For(std::string_view principal) const {
  // Asked before the files are read: what changes in between makes the credentials newer than they say, never older.
  const std::uint64_t version = trust_version();
  const std::lock_guard lock(state_->mutex);
  if (state_->credentials == nullptr || state_->trust_version < version) {
    // Not the ones there are: channels with equal credentials share connections, the withdrawn ones too.
    state_->credentials = MakeChannelCredentials(*state_->publisher);
    state_->trust_version = version;
  }
  return {.credentials = state_->credentials,
          .target_name = state_->publisher == nullptr ? std::string() : ServiceDnsName(principal),
          .trust_version = state_->trust_version};
}

}  // namespace nova::tls
