// Store: identity's tables (schema/). SQL only; every rule is the service's.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "nova/postgres/pool.h"
#include "nova/runtime/call.h"
#include "nova/runtime/task.h"
#include "services/identity/account.h"

namespace nova::identity {

// The request that made an account: its idempotency key and the SHA-256 of what it asked for, the password excepted.
struct RegistrationMark {
  Uuid key;
  std::vector<std::uint8_t> fingerprint;
};

struct StoredAccount {
  Account account;
  std::string password_hash;
  RegistrationMark registration;
};

// Thread-safe. Errors, deadline and cancellation of every function: those of postgres::Pool::Query.
class Store {
 public:
  explicit Store(postgres::Pool& pool) : pool_(pool) {}

  // False if the email address, the username or the registration key is taken; the database decides races.
  runtime::Task<bool> InsertAccount(runtime::Call& call, const StoredAccount& account);

  // Nothing if there is none.
  runtime::Task<std::optional<StoredAccount>> FindByRegistrationKey(runtime::Call& call, Uuid key);
  runtime::Task<std::optional<StoredAccount>> FindByEmail(runtime::Call& call, const std::string& email);
  runtime::Task<std::optional<StoredAccount>> FindByUsername(runtime::Call& call, const std::string& username);
  runtime::Task<std::optional<StoredAccount>> FindById(runtime::Call& call, Uuid id);

  // Does nothing if the hash is no longer `from`: the password was changed meanwhile.
  runtime::Task<void> ReplacePasswordHash(runtime::Call& call, Uuid account, const std::string& from,
                                          const std::string& to);

  runtime::Task<void> InsertSession(runtime::Call& call, Uuid session, Uuid account, WallTime created_at);

 private:
  postgres::Pool& pool_;
};

}  // namespace nova::identity
