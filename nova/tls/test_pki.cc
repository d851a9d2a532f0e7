#include "nova/tls/test_pki.h"

#include <array>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <gtest/gtest.h>
#include <sstream>
#include <stdexcept>
#include <sys/wait.h>

#include "nova/tls/files.h"

namespace nova::tls {
namespace {

void Require(bool ok, const char* what) {
  if (!ok) throw std::runtime_error(std::string(what) + ": " + OpenSslReason());
}

PkeyPtr MakeKey(const std::string& type) {
  PkeyPtr key;
  if (type.starts_with("RSA-")) {
    key.reset(EVP_RSA_gen(static_cast<unsigned>(std::stoul(type.substr(4)))));
  } else if (type == "ED25519") {
    key.reset(EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519"));
  } else {
    key.reset(EVP_EC_gen(type.c_str()));
  }
  Require(key != nullptr, "make key");
  return key;
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
  static long serial = 1000;
  TestCertificate made{
      .certificate = X509Ptr(X509_new()), .key = MakeKey(spec.key), .certificate_pem = {}, .key_pem = {}};
  X509* certificate = made.certificate.get();
  X509* signer = issuer != nullptr ? issuer->certificate.get() : certificate;
  EVP_PKEY* signing_key = issuer != nullptr ? issuer->key.get() : made.key.get();
  X509_set_version(certificate, X509_VERSION_3);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate), ++serial);
  ASN1_TIME_set(X509_getm_notBefore(certificate), std::chrono::system_clock::to_time_t(spec.not_before));
  ASN1_TIME_set(X509_getm_notAfter(certificate), std::chrono::system_clock::to_time_t(spec.not_after));
  X509_set_pubkey(certificate, made.key.get());
  Require(X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_ASC,
                                     reinterpret_cast<const unsigned char*>(spec.common_name.c_str()), -1, -1, 0) == 1,
          "name");
  X509_set_issuer_name(certificate, X509_get_subject_name(signer));
  const auto add = [&](int nid, const std::string& value) {
    if (value.empty()) return;
    X509V3_CTX context;
    X509V3_set_ctx(&context, signer, certificate, nullptr, nullptr, 0);
    const ExtensionPtr extension(X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str()));
    Require(extension != nullptr && X509_add_ext(certificate, extension.get(), -1) == 1, value.c_str());
  };
  add(NID_basic_constraints, spec.basic_constraints);
  add(NID_key_usage, spec.key_usage);
  add(NID_ext_key_usage, spec.extended_key_usage);
  add(NID_subject_alt_name, spec.names);
  add(NID_subject_key_identifier, "hash");
  if (issuer != nullptr) add(NID_authority_key_identifier, "keyid:always");
  const bool digest_is_built_in = EVP_PKEY_get_base_id(signing_key) == EVP_PKEY_ED25519;
  Require(X509_sign(certificate, signing_key, digest_is_built_in ? nullptr : EVP_sha256()) != 0, "sign");
  made.certificate_pem = *ToPem(certificate);
  made.key_pem = ToPem(made.key.get())->Expose();
  return made;
}

CertificateFiles TestFiles(const std::filesystem::path& directory) {
  return {.certificate = {.path = directory / "tls.crt", .variable = "GRPC_SERVER_CERT_PATH"},
          .key = {.path = directory / "tls.key", .variable = "GRPC_SERVER_KEY_PATH"},
          .ca = {.path = directory / "ca.crt", .variable = "GRPC_CLIENT_CA_CERT_PATH"}};
}

}  // namespace nova::tls
