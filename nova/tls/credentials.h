// gRPC credentials over what an IdentityPublisher publishes. A rotated certificate is used by every handshake that
// begins about two seconds after its files changed; connections that exist already go on.
//
//   builder.AddListeningPort(address, MakeServerCredentials(publisher, ClientCertificate::kRequired));
//
//   const ChannelIdentity identity(publisher);
//   const ChannelCredentials to_user = identity.For("user");
//   grpc::ChannelArguments arguments;
//   to_user.ApplyTo(arguments);
//   auto channel = grpc::CreateCustomChannel("user:9080", to_user.credentials, arguments);
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "nova/tls/peer.h"
#include "nova/tls/protocol.h"
#include "nova/tls/publisher.h"

namespace grpc {
class ChannelArguments;
class ChannelCredentials;
class ServerCredentials;
}  // namespace grpc

namespace nova::tls {

// kOptional: a client may come without a certificate, but one that it presents must verify.
enum class ClientCertificate { kRequired, kOptional };

// `publisher` (of Usage::kServer) must outlive every server that uses the credentials.
std::shared_ptr<grpc::ServerCredentials> MakeServerCredentials(const IdentityPublisher& publisher,
                                                               ClientCertificate client_certificate);
// Without TLS; for development only (ServerTlsConfig::Validate decides).
std::shared_ptr<grpc::ServerCredentials> MakePlaintextServerCredentials();

struct ChannelCredentials {
  std::shared_ptr<grpc::ChannelCredentials> credentials;
  // The DNS name that the server's certificate must carry; empty without TLS.
  std::string target_name;

  // Makes a channel of these arguments verify target_name, whatever address it connects to.
  void ApplyTo(grpc::ChannelArguments& arguments) const;
};

// Who this process is when it calls others. Cheap to copy; thread-safe.
class ChannelIdentity {
 public:
  // `publisher` (of Usage::kClient) must outlive every channel that uses the credentials.
  explicit ChannelIdentity(const IdentityPublisher& publisher);
  // Without TLS; for development only (ChannelTlsConfig::Validate decides).
  static ChannelIdentity Plaintext();

  // For a channel to `principal`: a server with any other certificate is refused, also one of the same authority.
  // Always use it together with ChannelCredentials::ApplyTo; without that the channel verifies the name in its address.
  ChannelCredentials For(std::string_view principal) const;

 private:
  ChannelIdentity(std::shared_ptr<grpc::ChannelCredentials> credentials, bool encrypted);

  std::shared_ptr<grpc::ChannelCredentials> credentials_;
  bool encrypted_;
};

}  // namespace nova::tls
