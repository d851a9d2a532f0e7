#include "nova/tls/peer.h"

#include <grpc/grpc_security_constants.h>
#include <grpcpp/security/auth_context.h>
#include <string_view>

#include "nova/tls/certificate.h"

namespace nova::tls {

std::string PeerPrincipal(const grpc::AuthContext& context) {
  if (!context.IsPeerAuthenticated()) return {};
  // gRPC sets this property only when the certificate has exactly one URI name and that is a SPIFFE ID.
  const auto ids = context.FindPropertyValues(GRPC_PEER_SPIFFE_ID_PROPERTY_NAME);
  if (ids.size() != 1) return {};
  std::string_view id(ids.front().data(), ids.front().size());
  if (!id.starts_with(kSpiffePrefix)) return {};
  id.remove_prefix(kSpiffePrefix.size());
  return IsPrincipal(id) ? std::string(id) : std::string();
}

}  // namespace nova::tls
