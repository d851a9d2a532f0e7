// The last word on a peer's certificate, after the TLS library has verified its chain: is it who it must be? Both count
// what they refuse (handshakes.h).
#pragma once

#include <memory>

namespace grpc::experimental {
class CertificateVerifier;
}

namespace nova::tls {

// For channels: gRPC's own check of the name that the channel was made for.
std::shared_ptr<grpc::experimental::CertificateVerifier> MakeServerNameVerifier();

// For servers: the certificate that a client showed, if it showed one, must name a principal. Which one may call what
// is decided per method later on.
std::shared_ptr<grpc::experimental::CertificateVerifier> MakePrincipalVerifier();

}  // namespace nova::tls
