#include "nova/auth/keys.h"

#include <algorithm>
#include <array>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <cstdint>
#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <sodium.h>
#include <utility>

#include "nova/auth/base64url.h"
#include "nova/auth/strict_json.h"

namespace nova::auth {
namespace {

namespace json = boost::json;

// r and s of ES256, x and y of P-256, and the key of Ed25519 have this length.
constexpr std::size_t kCoordinateBytes = 32;
constexpr unsigned kRsaBitsGenerated = 3072;
// What a key of HS256 signs to get its name. Its space keeps it apart from everything that is signed in a token.
constexpr std::string_view kSecretLabel = "nova key id";
// OpenSSL's own bound on the public exponent of large keys.
constexpr std::size_t kRsaExponentBytesMax = 8;

template <auto Free>
struct Deleter {
  template <class T>
  void operator()(T* object) const {
    Free(object);
  }
};
using BioPtr = std::unique_ptr<BIO, Deleter<BIO_free_all>>;
using BnPtr = std::unique_ptr<BIGNUM, Deleter<BN_free>>;
using MdCtxPtr = std::unique_ptr<EVP_MD_CTX, Deleter<EVP_MD_CTX_free>>;
using PkeyCtxPtr = std::unique_ptr<EVP_PKEY_CTX, Deleter<EVP_PKEY_CTX_free>>;
using ParamBuilderPtr = std::unique_ptr<OSSL_PARAM_BLD, Deleter<OSSL_PARAM_BLD_free>>;
using ParamsPtr = std::unique_ptr<OSSL_PARAM, Deleter<OSSL_PARAM_free>>;
using EcdsaSigPtr = std::unique_ptr<ECDSA_SIG, Deleter<ECDSA_SIG_free>>;

std::shared_ptr<EVP_PKEY> Own(EVP_PKEY* key) { return {key, EVP_PKEY_free}; }

// Empties OpenSSL's error queue of this thread; what is left there would surface in somebody else's TLS connection.
std::string TakeOpenSslErrors() {
  std::string text;
  while (const unsigned long code = ERR_get_error()) {
    std::array<char, 256> line{};
    ERR_error_string_n(code, line.data(), line.size());
    if (!text.empty()) text.append("; ");
    text.append(line.data());
  }
  return text;
}

const unsigned char* Bytes(std::string_view text) { return reinterpret_cast<const unsigned char*>(text.data()); }
unsigned char* Bytes(std::string& text) { return reinterpret_cast<unsigned char*>(text.data()); }

// An encrypted file must fail; without a callback OpenSSL would ask for the passphrase on the terminal.
int NoPassphrase(char*, int, int, void*) { return -1; }

// `length` 0: as few bytes as the number needs.
std::string BigNumBytes(const BIGNUM* number, std::size_t length = 0) {
  std::string bytes(length != 0 ? length : static_cast<std::size_t>(BN_num_bytes(number)), '\0');
  BN_bn2binpad(number, Bytes(bytes), static_cast<int>(bytes.size()));
  return bytes;
}

std::optional<std::string> BigNumParam(const EVP_PKEY* key, const char* name, std::size_t length = 0) {
  BIGNUM* raw = nullptr;
  if (EVP_PKEY_get_bn_param(key, name, &raw) != 1) return std::nullopt;
  const BnPtr number(raw);
  return BigNumBytes(number.get(), length);
}

// What distinguishes a public key, in base64url: the members RFC 7638 hashes. `y` is used by EC alone.
struct Members {
  std::string x_or_n;
  std::string y_or_e;
};

std::optional<Members> ReadMembers(const EVP_PKEY* key, Algorithm algorithm) {
  switch (algorithm) {
    case Algorithm::kEdDsa: {
      std::string raw(kCoordinateBytes, '\0');
      std::size_t length = raw.size();
      if (EVP_PKEY_get_raw_public_key(key, Bytes(raw), &length) != 1 || length != raw.size()) return std::nullopt;
      return Members{Base64UrlEncode(raw), {}};
    }
    case Algorithm::kEs256: {
      const auto x = BigNumParam(key, OSSL_PKEY_PARAM_EC_PUB_X, kCoordinateBytes);
      const auto y = BigNumParam(key, OSSL_PKEY_PARAM_EC_PUB_Y, kCoordinateBytes);
      if (!x || !y) return std::nullopt;
      return Members{Base64UrlEncode(*x), Base64UrlEncode(*y)};
    }
    case Algorithm::kRs256: {
      const auto n = BigNumParam(key, OSSL_PKEY_PARAM_RSA_N);
      const auto e = BigNumParam(key, OSSL_PKEY_PARAM_RSA_E);
      if (!n || !e) return std::nullopt;
      return Members{Base64UrlEncode(*n), Base64UrlEncode(*e)};
    }
    case Algorithm::kHs256:
      break;  // nothing of it is public
  }
  return std::nullopt;
}

std::string Member(std::string_view name, std::string_view value) {
  // Names and values are ours or base64url: nothing needs escaping.
  std::string text = "\"";
  return text.append(name).append("\":\"").append(value).append("\"");
}

// RFC 7638: the required members only, sorted by name, without spaces.
std::string CanonicalJwk(const Members& members, Algorithm algorithm) {
  switch (algorithm) {
    case Algorithm::kEdDsa:
      return "{" + Member("crv", "Ed25519") + "," + Member("kty", "OKP") + "," + Member("x", members.x_or_n) + "}";
    case Algorithm::kEs256:
      return "{" + Member("crv", "P-256") + "," + Member("kty", "EC") + "," + Member("x", members.x_or_n) + "," +
             Member("y", members.y_or_e) + "}";
    case Algorithm::kRs256:
      return "{" + Member("e", members.y_or_e) + "," + Member("kty", "RSA") + "," + Member("n", members.x_or_n) + "}";
    case Algorithm::kHs256:
      break;
  }
  return {};
}

std::string Sha256(std::string_view bytes) {
  std::string digest(SHA256_DIGEST_LENGTH, '\0');
  SHA256(Bytes(bytes), bytes.size(), Bytes(digest));
  return digest;
}

Result<void> CheckKind(const EVP_PKEY* key, Algorithm algorithm) {
  const auto wrong = [&](std::string_view expected) {
    return InvalidArgument("the key does not fit its algorithm: " + std::string(AlgorithmName(algorithm)) + " needs " +
                           std::string(expected));
  };
  switch (algorithm) {
    case Algorithm::kEdDsa:
      if (EVP_PKEY_is_a(key, "ED25519") != 1) return wrong("an Ed25519 key");
      return Ok();
    case Algorithm::kEs256: {
      std::array<char, 32> group{};
      std::size_t length = 0;
      if (EVP_PKEY_is_a(key, "EC") != 1 || EVP_PKEY_get_group_name(key, group.data(), group.size(), &length) != 1 ||
          std::string_view(group.data(), length) != SN_X9_62_prime256v1)
        return wrong("an EC key on the curve P-256");
      return Ok();
    }
    case Algorithm::kRs256:
      if (EVP_PKEY_is_a(key, "RSA") != 1 || EVP_PKEY_get_bits(key) < kRsaBitsMin ||
          EVP_PKEY_get_bits(key) > kRsaBitsMax)
        return wrong("an RSA key of " + std::to_string(kRsaBitsMin) + " to " + std::to_string(kRsaBitsMax) + " bits");
      return Ok();
    case Algorithm::kHs256:
      // No PEM and no JWK makes one: read as a secret, what is public would let everybody sign.
      return wrong("a shared secret, which no key in PEM is");
  }
  return wrong("another key");
}

const EVP_MD* DigestOf(Algorithm algorithm) {
  // Ed25519 hashes by itself.
  return algorithm == Algorithm::kEdDsa ? nullptr : EVP_sha256();
}

// JWS carries r and s side by side, OpenSSL wants them in DER.
std::optional<std::string> EcdsaToDer(std::string_view raw) {
  if (raw.size() != 2 * kCoordinateBytes) return std::nullopt;
  BnPtr r(BN_bin2bn(Bytes(raw), kCoordinateBytes, nullptr));
  BnPtr s(BN_bin2bn(Bytes(raw) + kCoordinateBytes, kCoordinateBytes, nullptr));
  const EcdsaSigPtr signature(ECDSA_SIG_new());
  if (!r || !s || !signature || ECDSA_SIG_set0(signature.get(), r.get(), s.get()) != 1) return std::nullopt;
  (void)r.release();
  (void)s.release();
  unsigned char* out = nullptr;
  const int length = i2d_ECDSA_SIG(signature.get(), &out);
  if (length <= 0) return std::nullopt;
  std::string der(reinterpret_cast<char*>(out), static_cast<std::size_t>(length));
  OPENSSL_free(out);
  return der;
}

std::optional<std::string> EcdsaFromDer(std::string_view der) {
  const unsigned char* in = Bytes(der);
  const EcdsaSigPtr signature(d2i_ECDSA_SIG(nullptr, &in, static_cast<long>(der.size())));
  if (!signature) return std::nullopt;
  return BigNumBytes(ECDSA_SIG_get0_r(signature.get()), kCoordinateBytes) +
         BigNumBytes(ECDSA_SIG_get0_s(signature.get()), kCoordinateBytes);
}

// In OpenSSL's form: DER for ES256.
std::optional<std::string> SignWith(EVP_PKEY* key, Algorithm algorithm, std::string_view message) {
  const MdCtxPtr context(EVP_MD_CTX_new());
  std::size_t length = 0;
  if (!context || EVP_DigestSignInit(context.get(), nullptr, DigestOf(algorithm), nullptr, key) != 1 ||
      EVP_DigestSign(context.get(), nullptr, &length, Bytes(message), message.size()) != 1)
    return std::nullopt;
  std::string signature(length, '\0');
  if (EVP_DigestSign(context.get(), Bytes(signature), &length, Bytes(message), message.size()) != 1)
    return std::nullopt;
  signature.resize(length);
  return signature;
}

std::shared_ptr<EVP_PKEY> FromParams(const char* type, OSSL_PARAM_BLD* builder) {
  const ParamsPtr params(OSSL_PARAM_BLD_to_param(builder));
  const PkeyCtxPtr context(EVP_PKEY_CTX_new_from_name(nullptr, type, nullptr));
  EVP_PKEY* key = nullptr;
  if (!params || !context || EVP_PKEY_fromdata_init(context.get()) != 1 ||
      EVP_PKEY_fromdata(context.get(), &key, EVP_PKEY_PUBLIC_KEY, params.get()) != 1)
    return nullptr;
  return Own(key);
}

// A point that is not on the curve is refused by OpenSSL here.
std::shared_ptr<EVP_PKEY> EcKey(std::string_view x, std::string_view y) {
  std::string point("\x04");  // uncompressed
  point.append(x).append(y);
  const ParamBuilderPtr builder(OSSL_PARAM_BLD_new());
  if (!builder ||
      OSSL_PARAM_BLD_push_utf8_string(builder.get(), OSSL_PKEY_PARAM_GROUP_NAME, SN_X9_62_prime256v1, 0) != 1 ||
      OSSL_PARAM_BLD_push_octet_string(builder.get(), OSSL_PKEY_PARAM_PUB_KEY, point.data(), point.size()) != 1)
    return nullptr;
  return FromParams("EC", builder.get());
}

std::shared_ptr<EVP_PKEY> RsaKey(std::string_view n, std::string_view e) {
  const BnPtr modulus(BN_bin2bn(Bytes(n), static_cast<int>(n.size()), nullptr));
  const BnPtr exponent(BN_bin2bn(Bytes(e), static_cast<int>(e.size()), nullptr));
  const ParamBuilderPtr builder(OSSL_PARAM_BLD_new());
  if (!modulus || !exponent || !builder ||
      OSSL_PARAM_BLD_push_BN(builder.get(), OSSL_PKEY_PARAM_RSA_N, modulus.get()) != 1 ||
      OSSL_PARAM_BLD_push_BN(builder.get(), OSSL_PKEY_PARAM_RSA_E, exponent.get()) != 1)
    return nullptr;
  return FromParams("RSA", builder.get());
}

std::string_view View(const json::string& text) { return {text.data(), text.size()}; }

// The text of a member; nothing if it is missing or not text.
std::optional<std::string_view> TextMember(const json::object& object, std::string_view name) {
  const json::value* const value = object.if_contains(json::string_view(name.data(), name.size()));
  if (value == nullptr || !value->is_string()) return std::nullopt;
  return View(value->get_string());
}

std::optional<std::string> BinaryMember(const json::object& object, std::string_view name) {
  const auto text = TextMember(object, name);
  return text ? Base64UrlDecode(*text) : std::nullopt;
}

bool HoldsPrivateMember(const json::object& jwk) {
  static constexpr std::array<const char*, 8> kPrivate = {"d", "p", "q", "dp", "dq", "qi", "oth", "k"};
  return std::ranges::any_of(kPrivate, [&](const char* name) { return jwk.contains(name); });
}

// True if the members that narrow a key's use leave room for verifying with `algorithm`.
bool MayVerify(const json::object& jwk, Algorithm algorithm) {
  if (jwk.contains("use") && TextMember(jwk, "use") != "sig") return false;
  if (jwk.contains("alg") && TextMember(jwk, "alg") != AlgorithmName(algorithm)) return false;
  if (const json::value* const operations = jwk.if_contains("key_ops")) {
    if (!operations->is_array()) return false;
    return std::ranges::any_of(operations->get_array(), [](const json::value& operation) {
      return operation.is_string() && View(operation.get_string()) == "verify";
    });
  }
  return true;
}

}  // namespace

std::string_view AlgorithmName(Algorithm algorithm) {
  switch (algorithm) {
    case Algorithm::kEdDsa:
      return "EdDSA";
    case Algorithm::kEs256:
      return "ES256";
    case Algorithm::kRs256:
      return "RS256";
    case Algorithm::kHs256:
      return "HS256";
  }
  return "";
}

Result<Algorithm> ParseAlgorithm(std::string_view name) {
  for (const Algorithm algorithm : {Algorithm::kEdDsa, Algorithm::kEs256, Algorithm::kRs256, Algorithm::kHs256})
    if (name == AlgorithmName(algorithm)) return algorithm;
  return InvalidArgument("unknown signature algorithm: EdDSA, ES256, RS256 or HS256 is expected");
}

Result<VerificationKey> VerificationKey::Make(std::shared_ptr<EVP_PKEY> key, Algorithm algorithm) {
  NOVA_TRY(CheckKind(key.get(), algorithm));
  const auto members = ReadMembers(key.get(), algorithm);
  if (!members) return InvalidArgument("the public key cannot be read", TakeOpenSslErrors());
  VerificationKey made(std::move(key), algorithm);
  const std::string canonical = CanonicalJwk(*members, algorithm);
  made.kid_ = Base64UrlEncode(Sha256(canonical));
  made.jwk_ = canonical;
  made.jwk_.pop_back();
  made.jwk_ +=
      "," + Member("alg", AlgorithmName(algorithm)) + "," + Member("kid", made.kid_) + "," + Member("use", "sig") + "}";
  return made;
}

Result<VerificationKey> VerificationKey::FromPem(std::string_view pem, Algorithm algorithm) {
  if (pem.size() > kPemBytesMax) return InvalidArgument("not a PEM public key: it is too large");
  const BioPtr bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  auto key = Own(bio ? PEM_read_bio_PUBKEY(bio.get(), nullptr, NoPassphrase, nullptr) : nullptr);
  if (!key) return InvalidArgument("not a PEM public key (BEGIN PUBLIC KEY)", TakeOpenSslErrors());
  return Make(std::move(key), algorithm);
}

Result<std::optional<VerificationKey>> VerificationKey::FromJwk(const json::object& jwk) {
  if (HoldsPrivateMember(jwk)) return InvalidArgument("the key set holds a private key");
  const auto type = TextMember(jwk, "kty");
  if (!type) return InvalidArgument("a key of the set has no type");

  const std::optional<VerificationKey> unsupported;
  const Error malformed = InvalidArgument("a key of the set is malformed");
  std::shared_ptr<EVP_PKEY> key;
  Algorithm algorithm = Algorithm::kEdDsa;
  if (*type == "OKP") {
    if (TextMember(jwk, "crv") != "Ed25519" || !MayVerify(jwk, algorithm)) return unsupported;
    const auto x = BinaryMember(jwk, "x");
    if (!x || x->size() != kCoordinateBytes) return malformed;
    key = Own(EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nullptr, Bytes(*x), x->size()));
  } else if (*type == "EC") {
    algorithm = Algorithm::kEs256;
    if (TextMember(jwk, "crv") != "P-256" || !MayVerify(jwk, algorithm)) return unsupported;
    const auto x = BinaryMember(jwk, "x");
    const auto y = BinaryMember(jwk, "y");
    if (!x || !y || x->size() != kCoordinateBytes || y->size() != kCoordinateBytes) return malformed;
    key = EcKey(*x, *y);
  } else if (*type == "RSA") {
    algorithm = Algorithm::kRs256;
    if (!MayVerify(jwk, algorithm)) return unsupported;
    const auto n = BinaryMember(jwk, "n");
    const auto e = BinaryMember(jwk, "e");
    if (!n || !e || n->empty() || e->empty() || n->size() > kRsaBitsMax / 8 || e->size() > kRsaExponentBytesMax)
      return malformed;
    key = RsaKey(*n, *e);
  } else {
    return unsupported;
  }
  if (!key) return InvalidArgument("a key of the set is malformed", TakeOpenSslErrors());
  NOVA_TRY(VerificationKey made, Make(std::move(key), algorithm));
  if (jwk.contains("kid") && TextMember(jwk, "kid") != made.kid())
    return InvalidArgument("a key of the set has a kid that is not its thumbprint");
  return std::optional(std::move(made));
}

bool VerificationKey::Verify(std::string_view message, std::string_view signature) const {
  if (algorithm_ == Algorithm::kHs256) {
    const auto expected = SignWith(key_.get(), algorithm_, message);
    return expected && expected->size() == signature.size() &&
           CRYPTO_memcmp(expected->data(), signature.data(), signature.size()) == 0;
  }
  std::optional<std::string> der;
  if (algorithm_ == Algorithm::kEs256) {
    der = EcdsaToDer(signature);
    if (!der) return false;
    signature = *der;
  }
  const MdCtxPtr context(EVP_MD_CTX_new());
  const bool valid =
      context && EVP_DigestVerifyInit(context.get(), nullptr, DigestOf(algorithm_), nullptr, key_.get()) == 1 &&
      EVP_DigestVerify(context.get(), Bytes(signature), signature.size(), Bytes(message), message.size()) == 1;
  if (!valid) ERR_clear_error();
  return valid;
}

Result<std::string> VerificationKey::ToPem() const {
  const BioPtr bio(BIO_new(BIO_s_mem()));
  if (algorithm_ == Algorithm::kHs256 || !bio || PEM_write_bio_PUBKEY(bio.get(), key_.get()) != 1)
    return Internal("the public key cannot be written", TakeOpenSslErrors());
  char* data = nullptr;
  const long length = BIO_get_mem_data(bio.get(), &data);
  return std::string(data, static_cast<std::size_t>(length));
}

Result<SigningKey> SigningKey::FromText(const Secret<>& text, Algorithm algorithm) {
  if (algorithm != Algorithm::kHs256) return FromPem(text, algorithm);
  std::string_view base64 = text.Expose();
  // Files end with a newline.
  while (base64.ends_with('\n') || base64.ends_with('\r')) base64.remove_suffix(1);
  std::string bytes(kSecretBytesMax, '\0');
  std::size_t length = 0;
  const bool decoded = sodium_base642bin(Bytes(bytes), bytes.size(), base64.data(), base64.size(), nullptr, &length,
                                         nullptr, sodium_base64_VARIANT_ORIGINAL) == 0;
  // The rest of the buffer was zero from the start.
  bytes.resize(decoded ? length : 0);
  const Secret<> secret(std::move(bytes));
  if (!decoded) return InvalidArgument("not base64 of at most " + std::to_string(kSecretBytesMax) + " bytes");
  return FromSecret(secret);
}

Result<SigningKey> SigningKey::FromSecret(const Secret<>& secret) {
  const std::string& bytes = secret.Expose();
  if (bytes.size() < kSecretBytesMin || bytes.size() > kSecretBytesMax)
    return InvalidArgument("the shared secret is too short or too long: " + std::to_string(kSecretBytesMin) + " to " +
                           std::to_string(kSecretBytesMax) + " bytes are needed");
  auto pkey = Own(EVP_PKEY_new_raw_private_key(EVP_PKEY_HMAC, nullptr, Bytes(bytes), bytes.size()));
  auto name = pkey ? SignWith(pkey.get(), Algorithm::kHs256, kSecretLabel) : std::nullopt;
  if (!name) return Internal("the shared secret cannot be used", TakeOpenSslErrors());
  VerificationKey verification(std::move(pkey), Algorithm::kHs256);
  verification.kid_ = Base64UrlEncode(std::string_view(*name).substr(0, name->size() / 2));
  return SigningKey(std::move(verification));
}

Result<SigningKey> SigningKey::FromPem(const Secret<>& pem, Algorithm algorithm) {
  const std::string& text = pem.Expose();
  if (text.size() > kPemBytesMax) return InvalidArgument("not a PEM private key: it is too large");
  const BioPtr bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
  auto pkey = Own(bio ? PEM_read_bio_PrivateKey(bio.get(), nullptr, NoPassphrase, nullptr) : nullptr);
  if (!pkey) return InvalidArgument("not an unencrypted PEM private key (BEGIN PRIVATE KEY)", TakeOpenSslErrors());
  NOVA_TRY(VerificationKey verification, VerificationKey::Make(std::move(pkey), algorithm));
  SigningKey key(std::move(verification));
  // A file whose halves do not belong together would sign tokens that nobody accepts.
  constexpr std::string_view kProbe = "nova signing key check";
  const auto signature = key.Sign(kProbe);
  if (!signature || !key.verification_key().Verify(kProbe, *signature))
    return InvalidArgument("the private key is damaged: it does not verify what it signs");
  return key;
}

Result<SigningKey> SigningKey::Generate(Algorithm algorithm) {
  EVP_PKEY* raw = nullptr;
  switch (algorithm) {
    case Algorithm::kEdDsa:
      raw = EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519");
      break;
    case Algorithm::kEs256:
      raw = EVP_PKEY_Q_keygen(nullptr, nullptr, "EC", SN_X9_62_prime256v1);
      break;
    case Algorithm::kRs256:
      raw = EVP_PKEY_Q_keygen(nullptr, nullptr, "RSA", static_cast<std::size_t>(kRsaBitsGenerated));
      break;
    case Algorithm::kHs256: {
      std::string bytes(kSecretBytesMin, '\0');
      if (RAND_priv_bytes(Bytes(bytes), static_cast<int>(bytes.size())) != 1)
        return Internal("no signing key could be made", TakeOpenSslErrors());
      return FromSecret(Secret<>(std::move(bytes)));
    }
  }
  if (raw == nullptr) return Internal("no signing key could be made", TakeOpenSslErrors());
  NOVA_TRY(VerificationKey verification, VerificationKey::Make(Own(raw), algorithm));
  return SigningKey(std::move(verification));
}

Result<std::string> SigningKey::Sign(std::string_view message) const {
  auto signature = SignWith(verification_key_.key_.get(), algorithm(), message);
  if (!signature) return Internal("signing failed", TakeOpenSslErrors());
  if (algorithm() != Algorithm::kEs256) return *std::move(signature);
  auto raw = EcdsaFromDer(*signature);
  if (!raw) return Internal("signing failed", TakeOpenSslErrors());
  return *std::move(raw);
}

Result<Secret<>> SigningKey::ToText() const {
  if (algorithm() != Algorithm::kHs256) return ToPem();
  std::string bytes(kSecretBytesMax, '\0');
  std::size_t length = bytes.size();
  const bool read = EVP_PKEY_get_raw_private_key(verification_key_.key_.get(), Bytes(bytes), &length) == 1;
  const Secret<> secret(std::move(bytes));
  if (!read) return Internal("the signing key cannot be written", TakeOpenSslErrors());
  std::string text(sodium_base64_ENCODED_LEN(length, sodium_base64_VARIANT_ORIGINAL), '\0');
  sodium_bin2base64(text.data(), text.size(), Bytes(secret.Expose()), length, sodium_base64_VARIANT_ORIGINAL);
  text.pop_back();  // its final NUL
  return Secret<>(std::move(text));
}

Result<Secret<>> SigningKey::ToPem() const {
  if (algorithm() == Algorithm::kHs256) return Internal("the signing key cannot be written: HS256 has no PEM");
  // Secure memory is not set up, but this kind of BIO wipes its buffer when it is freed.
  const BioPtr bio(BIO_new(BIO_s_secmem()));
  if (!bio || PEM_write_bio_PKCS8PrivateKey(bio.get(), verification_key_.key_.get(), nullptr, nullptr, 0, nullptr,
                                            nullptr) != 1)
    return Internal("the signing key cannot be written", TakeOpenSslErrors());
  char* data = nullptr;
  const long length = BIO_get_mem_data(bio.get(), &data);
  return Secret<>(std::string(data, static_cast<std::size_t>(length)));
}

Jwks::Jwks(std::vector<VerificationKey> keys) {
  for (VerificationKey& key : keys)
    if (Find(key.kid()) == nullptr) keys_.push_back(std::move(key));
}

Result<Jwks> Jwks::Parse(std::string_view text) {
  if (text.size() > kBytesMax) return InvalidArgument("the key set exceeds " + std::to_string(kBytesMax) + " bytes");
  NOVA_TRY(const json::object set, ParseStrictObject(text));
  const json::value* const list = set.if_contains("keys");
  if (list == nullptr || !list->is_array()) return InvalidArgument("the key set has no array `keys`");
  if (list->get_array().size() > kKeysMax)
    return InvalidArgument("the key set exceeds " + std::to_string(kKeysMax) + " keys");
  std::vector<VerificationKey> keys;
  for (const json::value& item : list->get_array()) {
    if (!item.is_object()) return InvalidArgument("a key of the set is not an object");
    NOVA_TRY(auto key, VerificationKey::FromJwk(item.get_object()));
    if (key) keys.push_back(*std::move(key));
  }
  return Jwks(std::move(keys));
}

std::string Jwks::ToJson() const {
  std::string text = "{\"keys\":[";
  for (const VerificationKey& key : keys_) {
    if (key.jwk().empty()) continue;
    if (text.back() != '[') text.push_back(',');
    text.append(key.jwk());
  }
  return text.append("]}");
}

const VerificationKey* Jwks::Find(std::string_view kid) const {
  const auto found = std::ranges::find(keys_, kid, &VerificationKey::kid);
  return found == keys_.end() ? nullptr : &*found;
}

}  // namespace nova::auth
