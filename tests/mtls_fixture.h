// A development authority in a temporary folder, and identities of it: everything a test or benchmark needs to speak
// mTLS over loopback. The folder goes with the fixture.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "nova/runtime/runtime.h"
#include "nova/telemetry/metrics.h"
#include "nova/tls/authority.h"
#include "nova/tls/credentials.h"
#include "nova/tls/publisher.h"

namespace nova::tests {

class MtlsFixture {
 public:
  // Throws std::runtime_error if the folder or the authority cannot be made: a test has nothing to fall back to.
  MtlsFixture();
  // Opens what another process's fixture made, so that a benchmark's server can share it.
  explicit MtlsFixture(const std::filesystem::path& existing);
  ~MtlsFixture();
  MtlsFixture(const MtlsFixture&) = delete;
  MtlsFixture& operator=(const MtlsFixture&) = delete;

  const std::filesystem::path& directory() const { return directory_; }
  // Where the leaf of `principal` lies, issued at the first request.
  std::filesystem::path Leaf(const std::string& principal);

  std::shared_ptr<grpc::ServerCredentials> ServerCredentials(const std::string& principal);
  tls::ChannelIdentity ChannelIdentity(const std::string& principal);

 private:
  const tls::IdentityPublisher& Publisher(const std::string& principal, tls::Usage usage);

  const bool owns_directory_;
  std::filesystem::path directory_;
  telemetry::Metrics metrics_;
  std::map<std::pair<std::string, tls::Usage>, std::unique_ptr<tls::IdentityPublisher>> publishers_;
};

}  // namespace nova::tests
