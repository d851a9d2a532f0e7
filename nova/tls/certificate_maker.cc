#include "nova/tls/certificate_maker.h"

#include <charconv>
#include <memory>
#include <string_view>
#include <utility>

#include "nova/tls/openssl.h"
#include "nova/tls/text.h"

namespace nova::tls {
namespace {

constexpr int kSerialBits = 127;
constexpr std::string_view kRsaPrefix = "RSA-";

// Errors: INVALID_ARGUMENT.
Result<PkeyPtr> MakeKey(const std::string& type) {
  PkeyPtr key;
  if (type.starts_with(kRsaPrefix)) {
    unsigned bits = 0;
    const char* end = type.data() + type.size();
    const auto parsed = std::from_chars(type.data() + kRsaPrefix.size(), end, bits);
    if (parsed.ec == std::errc() && parsed.ptr == end) key.reset(EVP_RSA_gen(bits));
  } else if (type == "ED25519") {
    key.reset(EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519"));
  } else {
    key.reset(EVP_EC_gen(type.c_str()));
  }
  if (key == nullptr) return InvalidArgument(Concat({"no key of type '", type, "' (", OpenSslReason(), ")"}));
  return key;
}

Result<X509Ptr> NewCertificate(EVP_PKEY* key, const CertificateSpec& spec) {
  X509Ptr certificate(X509_new());
  const BignumPtr serial(BN_new());
  if (certificate == nullptr || serial == nullptr) return Internal(OpenSslReason());
  const auto seconds_of = [](WallTime time) { return std::chrono::system_clock::to_time_t(time); };
  // The top bit set: never zero, and never shorter than others.
  const bool ok = BN_rand(serial.get(), kSerialBits, BN_RAND_TOP_ONE, BN_RAND_BOTTOM_ANY) == 1 &&
                  BN_to_ASN1_INTEGER(serial.get(), X509_get_serialNumber(certificate.get())) != nullptr &&
                  X509_set_version(certificate.get(), X509_VERSION_3) == 1 &&
                  ASN1_TIME_set(X509_getm_notBefore(certificate.get()), seconds_of(spec.not_before)) != nullptr &&
                  ASN1_TIME_set(X509_getm_notAfter(certificate.get()), seconds_of(spec.not_after)) != nullptr &&
                  X509_set_pubkey(certificate.get(), key) == 1;
  if (!ok) return Internal(OpenSslReason());
  return certificate;
}

Result<void> SetCommonName(X509_NAME* name, const std::string& text) {
  if (X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8, reinterpret_cast<const unsigned char*>(text.data()),
                                 static_cast<int>(text.size()), -1, 0) != 1)
    return InvalidArgument(Concat({"no common name: '", text, "' (", OpenSslReason(), ")"}));
  return Ok();
}

// `signer` is the certificate itself when it signs itself.
Result<void> AddExtension(X509* certificate, X509* signer, int nid, const std::string& value) {
  if (value.empty()) return Ok();
  X509V3_CTX context;
  X509V3_set_ctx(&context, signer, certificate, nullptr, nullptr, 0);
  const ExtensionPtr extension(X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str()));
  if (extension == nullptr || X509_add_ext(certificate, extension.get(), -1) != 1)
    return InvalidArgument(Concat({"no extension: '", value, "' (", OpenSslReason(), ")"}));
  return Ok();
}

}  // namespace

Result<SignedCertificate> MakeCertificate(const CertificateSpec& spec, const SignedCertificate* issuer) {
  NOVA_TRY(const PkeyPtr key, MakeKey(spec.key));
  NOVA_TRY(const X509Ptr certificate, NewCertificate(key.get(), spec));
  std::vector<X509Ptr> issuer_chain;
  PkeyPtr issuer_key;
  if (issuer != nullptr) {
    NOVA_TRY(issuer_chain, ParseCertificates(issuer->certificate_pem));
    NOVA_TRY(issuer_key, ParsePrivateKey(issuer->key_pem));
  }
  X509* made = certificate.get();
  X509* signer = issuer != nullptr ? issuer_chain.front().get() : made;
  EVP_PKEY* signing_key = issuer != nullptr ? issuer_key.get() : key.get();
  NOVA_TRY(SetCommonName(X509_get_subject_name(made), spec.common_name));
  if (X509_set_issuer_name(made, X509_get_subject_name(signer)) != 1) return Internal(OpenSslReason());
  NOVA_TRY(AddExtension(made, signer, NID_basic_constraints, spec.basic_constraints));
  NOVA_TRY(AddExtension(made, signer, NID_key_usage, spec.key_usage));
  NOVA_TRY(AddExtension(made, signer, NID_ext_key_usage, spec.extended_key_usage));
  NOVA_TRY(AddExtension(made, signer, NID_subject_alt_name, spec.names));
  NOVA_TRY(AddExtension(made, signer, NID_subject_key_identifier, "hash"));
  if (issuer != nullptr) NOVA_TRY(AddExtension(made, signer, NID_authority_key_identifier, "keyid:always"));
  const bool digest_is_built_in = EVP_PKEY_get_base_id(signing_key) == EVP_PKEY_ED25519;
  if (X509_sign(made, signing_key, digest_is_built_in ? nullptr : EVP_sha256()) == 0) return Internal(OpenSslReason());
  SignedCertificate result;
  NOVA_TRY(result.certificate_pem, ToPem(made));
  NOVA_TRY(result.key_pem, ToPem(key.get()));
  return result;
}

}  // namespace nova::tls
