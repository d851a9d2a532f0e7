#include "tests/mtls_fixture.h"

#include <cstdlib>
#include <stdexcept>

namespace nova::tests {
namespace {

template <class T>
T OrThrow(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().ToString());
  return *std::move(result);
}

std::filesystem::path TemporaryDirectory() {
  std::string pattern = (std::filesystem::temp_directory_path() / "nova-mtls-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("cannot make " + pattern);
  return pattern;
}

}  // namespace

MtlsFixture::MtlsFixture() : owns_directory_(true), directory_(TemporaryDirectory()) {
  (void)OrThrow(tls::Authority::Create(directory_ / "ca", Clock::System()));
}

MtlsFixture::MtlsFixture(const std::filesystem::path& existing) : owns_directory_(false), directory_(existing) {
  (void)OrThrow(tls::Authority::Load(directory_ / "ca", Clock::System()));
}

MtlsFixture::~MtlsFixture() {
  publishers_.clear();
  std::error_code ignored;
  if (owns_directory_) std::filesystem::remove_all(directory_, ignored);
}

std::filesystem::path MtlsFixture::Leaf(const std::string& principal) {
  const tls::LeafSpec spec{.principal = principal};
  auto leaf = directory_ / principal;
  // Not kept: it holds a lock that the processes of one folder share.
  auto authority = OrThrow(tls::Authority::Load(directory_ / "ca", Clock::System()));
  if (authority.NeedsRenewal(spec, leaf)) {
    const auto issued = authority.Issue(spec, leaf);
    if (!issued) throw std::runtime_error(issued.error().ToString());
  }
  return leaf;
}

const tls::IdentityPublisher& MtlsFixture::Publisher(const std::string& principal, tls::Usage usage) {
  auto& publisher = publishers_[{principal, usage}];
  if (!publisher) {
    const auto leaf = Leaf(principal);
    const tls::PublisherConfig config{.files = {.certificate = {.path = leaf / "tls.crt", .variable = ""},
                                                .key = {.path = leaf / "tls.key", .variable = ""},
                                                .ca = {.path = leaf / "ca.crt", .variable = ""}},
                                      .usage = usage};
    publisher = OrThrow(tls::IdentityPublisher::Create(config, Clock::System(), metrics_));
  }
  return *publisher;
}

std::shared_ptr<grpc::ServerCredentials> MtlsFixture::ServerCredentials(const std::string& principal) {
  return tls::MakeServerCredentials(Publisher(principal, tls::Usage::kServer), tls::ClientCertificate::kRequired);
}

tls::ChannelIdentity MtlsFixture::ChannelIdentity(const std::string& principal) {
  return tls::ChannelIdentity(Publisher(principal, tls::Usage::kClient));
}

}  // namespace nova::tests
