// gRPC credentials over what an IdentityPublisher publishes. A rotated certificate is used by every handshake that
// begins kHandshakesFollowWithin after it was published; connections that exist already go on. Whoever must not use a
// connection that a withdrawn authority has vouched for compares ChannelIdentity::trust_version, as rpc::Client does.
//
//   builder.AddListeningPort(address, MakeServerCredentials(publisher, ClientCertificate::kRequired));
//
//   const ChannelIdentity identity(publisher);
//   const ChannelCredentials to_user = identity.For("user");
//   grpc::ChannelArguments arguments;
//   to_user.ApplyTo(arguments);
//   auto channel = grpc::CreateCustomChannel("user:9080", to_user.credentials, arguments);
#pragma once

#include <chrono>
#include <cstdint>
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

// gRPC looks at the published files once a second, and reads them in a moment.
inline constexpr std::chrono::seconds kHandshakesFollowWithin{2};

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
  // Every connection is verified with the authorities of this ChannelIdentity::trust_version, or later ones.
  std::uint64_t trust_version = 0;

  // Makes a channel of these arguments verify target_name, whatever address it connects to.
  void ApplyTo(grpc::ChannelArguments& arguments) const;
};

// Who this process is when it calls others. Cheap to copy; thread-safe.
class ChannelIdentity {
 public:
  // `publisher` (of Usage::kClient) must outlive every copy, and every channel that uses the credentials.
  explicit ChannelIdentity(const IdentityPublisher& publisher);
  // Without TLS; for development only (ChannelTlsConfig::Validate decides).
  static ChannelIdentity Plaintext();

  // Grows when the authorities that servers are verified with change. Credentials made before go on to work, but their
  // connections were verified with the former authorities: make new ones. 0 without TLS.
  std::uint64_t trust_version() const;

  // For a channel to `principal`: a server with any other certificate is refused, also one of the same authority. While
  // the authorities stay the same all share one object, and so may their channels share connections. Blocks for a
  // moment when they have changed: it reads the published files.
  // Always use it together with ChannelCredentials::ApplyTo; without that the channel verifies the name in its address.
  ChannelCredentials For(std::string_view principal) const;

 private:
  struct State;
  explicit ChannelIdentity(std::shared_ptr<State> state);

  std::shared_ptr<State> state_;
};

}  // namespace nova::tls
