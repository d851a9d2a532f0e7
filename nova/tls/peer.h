// Who is at the other end of a connection, as its verified certificate says.
#pragma once

#include <string>

namespace grpc {
class AuthContext;
}

namespace nova::tls {

// The principal of the peer's verified certificate, such as "gateway"; empty without TLS, without a client certificate,
// or when its name is not of the form `spiffe://nova/<principal>`. Made for every call: one lookup, no parsing of
// certificates.
std::string PeerPrincipal(const grpc::AuthContext& context);

}  // namespace nova::tls
