// The four places credentials come from, each asked once per call of Fetch; credentials.cc decides which one it is, and
// when it is asked. For this folder only.
#pragma once

#include <memory>
#include <string>

#include "nova/base/clock.h"
#include "nova/base/result.h"
#include "nova/http/client.h"
#include "nova/runtime/call.h"
#include "nova/runtime/task.h"
#include "nova/secrets/credentials.h"

namespace nova::secrets {

struct Obtained {
  Credentials credentials = {};
  // As IdentityInUse::name.
  std::string name = {};
};

class Source {
 public:
  virtual ~Source() = default;
  virtual CredentialSource kind() const = 0;
  // What is known before anything was asked.
  virtual std::string name() const = 0;
  // False for what never changes.
  virtual bool can_be_refreshed() const { return true; }
  // Errors: kExpiredCredentials, kNetwork, kThrottled; why the call ended. All name the source and the remedy.
  virtual runtime::Task<Obtained> Fetch(runtime::Call& call) = 0;
};

// The first that is configured. `http` and `clock` must outlive it. Errors: INVALID_ARGUMENT, as
// CredentialsProvider::Create.
Result<std::unique_ptr<Source>> MakeSource(const CredentialsConfig& config, const std::string& region,
                                           const http::Client& http, const Clock& clock);

}  // namespace nova::secrets
