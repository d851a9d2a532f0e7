// Ownership and error text for OpenSSL's C interface; included by the sources of this folder only.
#pragma once

#include <memory>
#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/conf.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <string>
#include <string_view>
#include <vector>

#include "nova/base/clock.h"
#include "nova/base/result.h"
#include "nova/base/secret.h"

namespace nova::tls {

template <auto Free>
struct OpenSslDeleter {
  template <class T>
  void operator()(T* object) const {
    Free(object);
  }
};

using BioPtr = std::unique_ptr<BIO, OpenSslDeleter<&BIO_free_all>>;
using BignumPtr = std::unique_ptr<BIGNUM, OpenSslDeleter<&BN_free>>;
using ConfPtr = std::unique_ptr<CONF, OpenSslDeleter<&NCONF_free>>;
using ExtensionPtr = std::unique_ptr<X509_EXTENSION, OpenSslDeleter<&X509_EXTENSION_free>>;
using GeneralNamesPtr = std::unique_ptr<GENERAL_NAMES, OpenSslDeleter<&GENERAL_NAMES_free>>;
using PkeyPtr = std::unique_ptr<EVP_PKEY, OpenSslDeleter<&EVP_PKEY_free>>;
using SslContextPtr = std::unique_ptr<SSL_CTX, OpenSslDeleter<&SSL_CTX_free>>;
using StoreContextPtr = std::unique_ptr<X509_STORE_CTX, OpenSslDeleter<&X509_STORE_CTX_free>>;
using StorePtr = std::unique_ptr<X509_STORE, OpenSslDeleter<&X509_STORE_free>>;
using X509Ptr = std::unique_ptr<X509, OpenSslDeleter<&X509_free>>;

// The reason of the newest error in this thread's queue, which is emptied.
std::string OpenSslReason();

// Every certificate of a PEM text, in order. Errors: INVALID_ARGUMENT with the bare reason; none at all is an error.
Result<std::vector<X509Ptr>> ParseCertificates(std::string_view pem);
// Errors: INVALID_ARGUMENT with the bare reason.
Result<PkeyPtr> ParsePrivateKey(const Secret<>& pem);

Result<std::string> ToPem(X509* certificate);
// Unencrypted PKCS #8.
Result<Secret<>> ToPem(EVP_PKEY* key);

// Times after the year 2262, the last that WallTime can hold, become that.
WallTime ToWallTime(const ASN1_TIME* time);

}  // namespace nova::tls
