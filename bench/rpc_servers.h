// The servers that bench/rpc_bench.cc compares. All answer nova.tests.EchoService/Echo over mTLS.
#pragma once

#include <string>
#include <vector>

namespace nova::bench {

// bare:    gRPC's generated callback service, nothing of ours
// raw:     the same method with its body raw, decoded by hand (what Nova's server stands on)
// generic: gRPC's generic callback service, one dispatcher for every method
// nova:    the full server stack
std::vector<std::string> ServerKinds();

// Serves until its standard input ends; prints the port on standard output. `certificates`: the folder of a
// tests::MtlsFixture.
int RunServer(const std::string& kind, const std::string& certificates);

}  // namespace nova::bench
