// AWS Signature Version 4: how a request proves who sent it. Held against AWS' published vectors and against botocore.
// https://docs.aws.amazon.com/IAM/latest/UserGuide/create-signed-request.html
#pragma once

#include <string>
#include <string_view>

#include "nova/base/clock.h"
#include "nova/http/message.h"
#include "nova/secrets/credentials.h"

namespace nova::secrets {

struct SigningScope {
  std::string region;   // "eu-central-1"
  std::string service;  // "secretsmanager"
};

// AWS removes "." and ".." from a path before it is signed; S3 alone takes it as it is.
enum class PathForm { kNormalized, kAsItIs };

// What is signed, in the two forms that the standard defines; for tests, and to find out why a signature is refused.
// `request` must hold every header that is to be signed, Host and X-Amz-Date among them.
std::string CanonicalRequest(const http::Request& request, PathForm form = PathForm::kNormalized);
std::string StringToSign(std::string_view canonical_request, const SigningScope& scope, WallTime now);

// Adds X-Amz-Date, X-Amz-Security-Token where the credentials have a session token, and Authorization. `request` must
// have Host; every header it has is signed, so nothing may be added or changed afterwards. `path` and `query` as they
// go over the wire.
void Sign(http::Request& request, const Credentials& credentials, const SigningScope& scope, WallTime now,
          PathForm form = PathForm::kNormalized);

}  // namespace nova::secrets
