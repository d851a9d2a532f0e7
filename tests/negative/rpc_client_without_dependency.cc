// must not compile: no matching constructor for initialization of 'nova::rpc::Client'
#include "nova/rpc/client.h"

void Use(nova::telemetry::Metrics& metrics, const nova::tls::ChannelIdentity& me) {
#ifdef WRONG
  nova::rpc::Client identity(metrics, nova::rpc::ClientConfig(), me);
#else
  nova::resilience::PeerDependency peer("identity", metrics);
  nova::rpc::Client identity(metrics, peer, nova::rpc::ClientConfig(), me);
#endif
}
