#include "nova/tls/test_pki.h"

#include <array>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <gtest/gtest.h>
#include <sstream>
#include <stdexcept>
#include <sys/wait.h>

#include "nova/tls/certificate_maker.h"
#include "nova/tls/files.h"

namespace nova::tls {
namespace {

template <class T>
T OrThrow(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().ToString());
  return *std::move(result);
}

}  // namespace

TestDirectory::TestDirectory() {
  auto made = MakeUniqueDirectory(std::filesystem::temp_directory_path(), "tls-test-");
  if (!made) throw std::runtime_error(made.error().ToString());
  path_ = *std::move(made);
}

TestDirectory::~TestDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string TestDirectory::Write(std::string_view name, std::string_view content) const {
  const std::filesystem::path path = path_ / name;
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary | std::ios::trunc) << content;
  return path.string();
}

std::string ReadAll(const std::filesystem::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

CommandResult RunCommand(const std::string& command) {
  CommandResult result;
  FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
  if (pipe == nullptr) return result;
  std::array<char, 4096> buffer{};
  while (const std::size_t count = std::fread(buffer.data(), 1, buffer.size(), pipe))
    result.output.append(buffer.data(), count);
  const int status = ::pclose(pipe);
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return result;
}

TestCertificateSpec AuthoritySpec(std::string common_name) {
  return {.common_name = std::move(common_name),
          .names = "",
          .extended_key_usage = "",
          .key_usage = "critical,keyCertSign,cRLSign",
          .basic_constraints = "critical,CA:TRUE"};
}

TestCertificate MakeCertificate(const TestCertificateSpec& spec, const TestCertificate* issuer) {
  SignedCertificate signer;
  if (issuer != nullptr) signer = {.certificate_pem = issuer->certificate_pem, .key_pem = Secret<>(issuer->key_pem)};
  const SignedCertificate made = OrThrow(MakeCertificate({.common_name = spec.common_name,
                                                          .key = spec.key,
                                                          .names = spec.names,
                                                          .extended_key_usage = spec.extended_key_usage,
                                                          .key_usage = spec.key_usage,
                                                          .basic_constraints = spec.basic_constraints,
                                                          .not_before = spec.not_before,
                                                          .not_after = spec.not_after},
                                                         issuer != nullptr ? &signer : nullptr));
  return {.certificate = std::move(OrThrow(ParseCertificates(made.certificate_pem)).front()),
          .key = OrThrow(ParsePrivateKey(made.key_pem)),
          .certificate_pem = made.certificate_pem,
          .key_pem = made.key_pem.Expose()};
}

CertificateFiles TestFiles(const std::filesystem::path& directory) {
  return {.certificate = {.path = directory / "tls.crt", .variable = "GRPC_SERVER_CERT_PATH"},
          .key = {.path = directory / "tls.key", .variable = "GRPC_SERVER_KEY_PATH"},
          .ca = {.path = directory / "ca.crt", .variable = "GRPC_CLIENT_CA_CERT_PATH"}};
}

}  // namespace nova::tls
