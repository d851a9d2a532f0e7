// For the tests of this folder: certificates of every kind, good and bad, a directory to put them in, and the `openssl`
// program as an independent judge.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "nova/base/clock.h"
#include "nova/tls/certificate.h"
#include "nova/tls/openssl.h"

namespace nova::tls {

class TestDirectory {
 public:
  TestDirectory();
  ~TestDirectory();
  TestDirectory(const TestDirectory&) = delete;
  TestDirectory& operator=(const TestDirectory&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(std::string_view name) const { return path_ / name; }
  // Replaces the file's content in place, as a careless copy does.
  std::string Write(std::string_view name, std::string_view content) const;

 private:
  std::filesystem::path path_;
};

std::string ReadAll(const std::filesystem::path& path);

struct CommandResult {
  int exit_code = -1;
  std::string output;  // both streams
};
CommandResult RunCommand(const std::string& command);

// Empty extensions are left out.
struct TestCertificateSpec {
  std::string common_name = "identity";
  std::string key = "P-256";  // a curve, ED25519, or RSA-<bits>
  std::string names = "URI:spiffe://nova/identity,DNS:identity.nova.svc.cluster.local,DNS:localhost";
  std::string extended_key_usage = "serverAuth,clientAuth";
  std::string key_usage = "critical,digitalSignature";
  std::string basic_constraints = "critical,CA:FALSE";
  WallTime not_before = FakeClock().WallNow() - std::chrono::hours(1);
  WallTime not_after = FakeClock().WallNow() + std::chrono::days(30);
};
TestCertificateSpec AuthoritySpec(std::string common_name = "test authority");

struct TestCertificate {
  X509Ptr certificate;
  PkeyPtr key;
  std::string certificate_pem;
  std::string key_pem;
};
// Signed by `issuer`, or by itself.
TestCertificate MakeCertificate(const TestCertificateSpec& spec, const TestCertificate* issuer = nullptr);

// The three files of a directory, with names as a service knows them.
CertificateFiles TestFiles(const std::filesystem::path& directory);

}  // namespace nova::tls
