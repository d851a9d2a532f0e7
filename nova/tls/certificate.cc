#include "nova/tls/certificate.h"

#include <algorithm>
#include <arpa/inet.h>
#include <array>
#include <optional>
#include <utility>

#include "nova/tls/files.h"
#include "nova/tls/openssl.h"
#include "nova/tls/text.h"

namespace nova::tls {
namespace {

// The level Debian's OpenSSL demands of every chain in a handshake: 112 bits of security, no SHA-1 signatures.
constexpr int kOpenSslSecurityLevel = 2;
constexpr std::size_t kPrincipalSizeMax = 63;

// How a message names a file: GRPC_SERVER_KEY_PATH=/etc/grpc-tls/tls.key.
std::string Name(const CertificateFile& file) {
  if (file.variable.empty()) return file.path;
  return file.variable + "=" + file.path;
}

Error Refused(const CertificateFile& file, std::string_view problem, std::string_view remedy) {
  return InvalidArgument(Concat({Name(file), ": ", problem, "; ", remedy}));
}

std::string_view UsageName(Usage usage) { return usage == Usage::kServer ? "server" : "client"; }

Result<std::vector<X509Ptr>> ParseFile(std::string_view pem, const CertificateFile& file) {
  auto certificates = ParseCertificates(pem);
  if (certificates) return certificates;
  return Refused(file, Concat({"not a PEM certificate (", certificates.error().message(), ")"}),
                 "it must begin with -----BEGIN CERTIFICATE-----");
}

Result<void> CheckKey(EVP_PKEY* key, const CertificateFile& file) {
  const int type = EVP_PKEY_get_base_id(key);
  const int bits = EVP_PKEY_get_bits(key);
  constexpr std::string_view kRemedy = "issue a certificate with ECDSA P-256 or RSA 2048";
  if (type == EVP_PKEY_RSA || type == EVP_PKEY_RSA_PSS) {
    if (bits >= kRsaBitsMin) return Ok();
    return Refused(file, Concat({"an RSA key of ", std::to_string(bits), " bits is too weak"}), kRemedy);
  }
  if (type == EVP_PKEY_EC) {
    if (bits >= kEcBitsMin) return Ok();
    return Refused(file, Concat({"an elliptic curve key of ", std::to_string(bits), " bits is too weak"}), kRemedy);
  }
  const char* name = OBJ_nid2sn(type);
  return Refused(file, Concat({"not every peer accepts a key of type ", name != nullptr ? name : "unknown"}), kRemedy);
}

std::string_view View(const ASN1_STRING* text) {
  return {reinterpret_cast<const char*>(ASN1_STRING_get0_data(text)),
          static_cast<std::size_t>(ASN1_STRING_length(text))};
}

std::string AddressText(const ASN1_OCTET_STRING* address) {
  const int size = ASN1_STRING_length(address);
  std::array<char, INET6_ADDRSTRLEN> text{};
  if (size != 4 && size != 16) return "";
  inet_ntop(size == 4 ? AF_INET : AF_INET6, ASN1_STRING_get0_data(address), text.data(), text.size());
  return text.data();
}

std::string SerialText(const X509* certificate) {
  const BignumPtr number(ASN1_INTEGER_to_BN(X509_get0_serialNumber(certificate), nullptr));
  if (number == nullptr) return "";
  char* text = BN_bn2hex(number.get());
  std::string serial = text != nullptr ? text : "";
  OPENSSL_free(text);
  return serial;
}

std::string NameText(const X509_NAME* name) {
  const BioPtr bio(BIO_new(BIO_s_mem()));
  if (bio == nullptr || X509_NAME_print_ex(bio.get(), name, 0, XN_FLAG_RFC2253) < 0) return "";
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &data);
  return {data, static_cast<std::size_t>(size)};
}

Result<std::vector<AuthorityInfo>> DescribeAuthorities(const std::vector<X509Ptr>& authorities) {
  std::vector<AuthorityInfo> described;
  for (const X509Ptr& authority : authorities) {
    std::array<unsigned char, SHA256_DIGEST_LENGTH> digest{};
    if (X509_digest(authority.get(), EVP_sha256(), digest.data(), nullptr) != 1) return Internal(OpenSslReason());
    std::string fingerprint;
    for (const unsigned char byte : digest) {
      constexpr std::string_view kDigits = "0123456789ABCDEF";
      fingerprint += kDigits[byte >> 4];
      fingerprint += kDigits[byte & 0xF];
    }
    described.push_back({.subject = NameText(X509_get_subject_name(authority.get())),
                         .fingerprint = std::move(fingerprint),
                         .not_after = ToWallTime(X509_get0_notAfter(authority.get()))});
  }
  return described;
}

// Fills everything but the principal, and returns the URI names for the caller to judge.
std::vector<std::string> ReadNames(X509* leaf, CertificateInfo& info) {
  info.not_before = ToWallTime(X509_get0_notBefore(leaf));
  info.not_after = ToWallTime(X509_get0_notAfter(leaf));
  info.serial = SerialText(leaf);
  info.issuer = NameText(X509_get_issuer_name(leaf));
  std::vector<std::string> uris;
  const GeneralNamesPtr names(
      static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(leaf, NID_subject_alt_name, nullptr, nullptr)));
  for (int i = 0; i < sk_GENERAL_NAME_num(names.get()); ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(names.get(), i);
    if (name->type == GEN_URI) uris.emplace_back(View(name->d.uniformResourceIdentifier));
    if (name->type == GEN_DNS) info.dns_names.emplace_back(View(name->d.dNSName));
    if (name->type == GEN_IPADD) info.ip_addresses.push_back(AddressText(name->d.iPAddress));
  }
  return uris;
}

Result<std::string> CheckPrincipal(const std::vector<std::string>& uris, const CertificateFile& file) {
  constexpr std::string_view kRemedy = "issue it with exactly one URI name, spiffe://nova/<principal>";
  if (uris.empty()) return Refused(file, "the certificate has no URI name", kRemedy);
  if (uris.size() > 1)
    return Refused(file, Concat({"the certificate has ", std::to_string(uris.size()), " URI names"}), kRemedy);
  const std::string_view uri = uris.front();
  if (uri.starts_with(kSpiffePrefix)) {
    const std::string_view principal = uri.substr(kSpiffePrefix.size());
    if (IsPrincipal(principal)) return std::string(principal);
  }
  return Refused(file, Concat({"the certificate's URI name ", uri, " names no principal"}), kRemedy);
}

Result<void> CheckUsage(X509* leaf, Usage usage, const CertificateFile& file) {
  const std::uint32_t needed = usage == Usage::kServer ? XKU_SSL_SERVER : XKU_SSL_CLIENT;
  // All bits are set when the extension is absent, which allows everything.
  if ((X509_get_extended_key_usage(leaf) & needed) == 0)
    return Refused(file, Concat({"its extended key usage does not allow ", UsageName(usage), " authentication"}),
                   "issue it with the usages server auth and client auth");
  const int purpose = usage == Usage::kServer ? X509_PURPOSE_SSL_SERVER : X509_PURPOSE_SSL_CLIENT;
  if (X509_check_purpose(leaf, purpose, 0) != 1)
    return Refused(file, Concat({"its key usage does not allow a TLS ", UsageName(usage)}),
                   "issue it with the usage digital signature");
  return Ok();
}

Result<void> CheckTime(X509* certificate, std::string_view which, WallTime now, const CertificateFile& file) {
  const WallTime not_before = ToWallTime(X509_get0_notBefore(certificate));
  const WallTime not_after = ToWallTime(X509_get0_notAfter(certificate));
  // Written so that nothing overflows at the ends of WallTime.
  if (now < not_before && not_before - now > kClockSkewMax)
    return Refused(file, Concat({which, " is not valid before ", Timestamp(not_before)}),
                   "check this machine's clock or issue it anew");
  if (now > not_after && now - not_after > kClockSkewMax)
    return Refused(file, Concat({which, " expired at ", Timestamp(not_after)}), "issue it anew");
  return Ok();
}

// The same judgement a peer of the same authorities makes in the handshake, except for time: with an injected clock and
// an allowance that is judged here, certificate by certificate.
// Returns the chain it found, from the leaf to the authority, as PEM.
Result<std::string> CheckChain(const std::vector<X509Ptr>& chain, const std::vector<X509Ptr>& authorities,
                               const CertificateFiles& files, Usage usage, WallTime now) {
  const StorePtr store(X509_STORE_new());
  const StoreContextPtr context(X509_STORE_CTX_new());
  STACK_OF(X509)* intermediates = sk_X509_new_null();
  const std::unique_ptr<STACK_OF(X509), void (*)(STACK_OF(X509)*)> intermediates_owner(
      intermediates, [](STACK_OF(X509) * stack) { sk_X509_free(stack); });
  if (store == nullptr || context == nullptr || intermediates == nullptr) return Internal(OpenSslReason());
  for (const X509Ptr& authority : authorities)
    if (X509_STORE_add_cert(store.get(), authority.get()) != 1) return Internal(OpenSslReason());
  for (std::size_t i = 1; i < chain.size(); ++i)
    if (sk_X509_push(intermediates, chain[i].get()) == 0) return Internal(OpenSslReason());
  if (X509_STORE_CTX_init(context.get(), store.get(), chain.front().get(), intermediates) != 1)
    return Internal(OpenSslReason());
  X509_VERIFY_PARAM* parameters = X509_STORE_CTX_get0_param(context.get());
  X509_VERIFY_PARAM_set_purpose(parameters,
                                usage == Usage::kServer ? X509_PURPOSE_SSL_SERVER : X509_PURPOSE_SSL_CLIENT);
  X509_VERIFY_PARAM_set_flags(parameters, X509_V_FLAG_NO_CHECK_TIME);
  X509_VERIFY_PARAM_set_auth_level(parameters, kOpenSslSecurityLevel);
  if (X509_verify_cert(context.get()) != 1) {
    const char* reason = X509_verify_cert_error_string(X509_STORE_CTX_get_error(context.get()));
    (void)OpenSslReason();
    return Refused(files.certificate, Concat({"does not verify against ", Name(files.ca), " (", reason, ")"}),
                   "put the issuing authority into that file, and intermediates behind the certificate");
  }
  const STACK_OF(X509)* verified = X509_STORE_CTX_get0_chain(context.get());
  const BioPtr pem(BIO_new(BIO_s_mem()));
  for (int i = 0; i < sk_X509_num(verified); ++i) {
    X509* certificate = sk_X509_value(verified, i);
    if (pem == nullptr || PEM_write_bio_X509(pem.get(), certificate) != 1) return Internal(OpenSslReason());
    const bool is_authority = std::ranges::any_of(
        authorities, [&](const X509Ptr& authority) { return X509_cmp(authority.get(), certificate) == 0; });
    NOVA_TRY(CheckTime(certificate,
                       i == 0         ? "the certificate"
                       : is_authority ? "the authority"
                                      : "an intermediate",
                       now, is_authority ? files.ca : files.certificate));
  }
  char* text = nullptr;
  const long size = BIO_get_mem_data(pem.get(), &text);
  return std::string(text, static_cast<std::size_t>(size));
}

}  // namespace

bool IsPrincipal(std::string_view name) {
  const auto is_letter = [](char c) { return c >= 'a' && c <= 'z'; };
  if (name.empty() || name.size() > kPrincipalSizeMax || !is_letter(name.front()) || name.back() == '-') return false;
  return std::ranges::all_of(name, [&](char c) { return is_letter(c) || (c >= '0' && c <= '9') || c == '-'; });
}

std::string ServiceDnsName(std::string_view principal) { return std::string(principal) + std::string(kServiceDomain); }

Result<std::string> ReadCertificateFile(const CertificateFile& file) {
  auto text = ReadFile(file.path, kFileBytesMax);
  if (text) return text;
  return FailedPrecondition(Concat({Name(file), ": cannot be read (", text.error().message(),
                                    "); check that it exists and that this user may read it"}));
}

Result<CertificateTexts> ReadCertificateFiles(const CertificateFiles& files) {
  CertificateTexts texts;
  NOVA_TRY(texts.chain_pem, ReadCertificateFile(files.certificate));
  NOVA_TRY(auto key_pem, ReadCertificateFile(files.key));
  texts.key_pem = Secret<>(std::move(key_pem));
  NOVA_TRY(texts.ca_pem, ReadCertificateFile(files.ca));
  return texts;
}

Result<CertificateSet> ValidateCertificateTexts(CertificateTexts texts, const CertificateFiles& files, Usage usage,
                                                const Clock& clock) {
  NOVA_TRY(const auto chain, ParseFile(texts.chain_pem, files.certificate));
  NOVA_TRY(const auto authorities, ParseFile(texts.ca_pem, files.ca));
  const auto key = ParsePrivateKey(texts.key_pem);
  if (!key)
    return Refused(files.key, Concat({"not a PEM private key (", key.error().message(), ")"}),
                   "it must be one unencrypted private key, as `openssl genpkey` writes it");

  X509* leaf = chain.front().get();
  if (X509_check_private_key(leaf, key->get()) != 1) {
    (void)OpenSslReason();
    return Refused(files.key, Concat({"the key does not match the certificate ", Name(files.certificate)}),
                   "replace both files together");
  }
  NOVA_TRY(CheckKey(key->get(), files.key));
  CertificateInfo info;
  NOVA_TRY(info.principal, CheckPrincipal(ReadNames(leaf, info), files.certificate));
  NOVA_TRY(CheckUsage(leaf, usage, files.certificate));
  NOVA_TRY(auto complete_chain_pem, CheckChain(chain, authorities, files, usage, clock.WallNow()));
  NOVA_TRY(auto described, DescribeAuthorities(authorities));
  return CertificateSet{.chain_pem = std::move(texts.chain_pem),
                        .complete_chain_pem = std::move(complete_chain_pem),
                        .key_pem = std::move(texts.key_pem),
                        .ca_pem = std::move(texts.ca_pem),
                        .info = std::move(info),
                        .authorities = std::move(described)};
}

Result<CertificateSet> LoadCertificateSet(const CertificateFiles& files, Usage usage, const Clock& clock) {
  NOVA_TRY(auto texts, ReadCertificateFiles(files));
  return ValidateCertificateTexts(std::move(texts), files, usage, clock);
}

Result<AuthoritySet> ValidateAuthorities(std::string pem, const CertificateFile& file, const Clock& clock) {
  NOVA_TRY(const auto certificates, ParseFile(pem, file));
  NOVA_TRY(auto described, DescribeAuthorities(certificates));
  for (std::size_t i = 0; i < certificates.size(); ++i) {
    if (X509_check_ca(certificates[i].get()) == 0)
      return Refused(file, Concat({described[i].subject, " is no authority"}),
                     "put the certificate of whoever signs the server's into that file");
  }
  // One that serves now is enough: the next and the former one may stand beside it.
  Result<void> usable = Ok();
  for (const X509Ptr& certificate : certificates) {
    usable = CheckTime(certificate.get(), "the authority", clock.WallNow(), file);
    if (usable) usable = CheckKey(X509_get0_pubkey(certificate.get()), file);
    if (usable) break;
  }
  NOVA_TRY(usable);
  return AuthoritySet{.pem = std::move(pem), .authorities = std::move(described)};
}

Result<CertificateInfo> ReadCertificateInfo(std::string_view pem) {
  NOVA_TRY(const auto certificates, ParseCertificates(pem));
  CertificateInfo info;
  const auto uris = ReadNames(certificates.front().get(), info);
  if (auto principal = CheckPrincipal(uris, {})) info.principal = *std::move(principal);
  return info;
}

}  // namespace nova::tls
