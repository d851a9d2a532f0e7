// Account: an account of the stack, made for the audit, and its owner, who logs in and calls. It goes when this object
// does; until then everything about it that nobody else may read is remembered, to be looked for.
//
//   NOVA_TRY(const auto account, Account::Create(runtime, config, operator_identity));
//   NOVA_CO_TRY(const Secret<> token, co_await account->Login(call));
//   NOVA_CO_TRY(co_await account->VerifyToken(call, token));
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "audit/audit.h"
#include "audit/leak_scan.h"
#include "nova/base/secret.h"
#include "nova/base/uuid.h"
#include "nova/resilience/dependency.h"
#include "nova/rpc/client.h"
#include "nova/runtime/runtime.h"
#include "nova/telemetry/metrics.h"
#include "nova/tls/credentials.h"

namespace nova::audit {

// Where a service listens. Errors: FAILED_PRECONDITION if the stack has none of that name.
Result<ServiceTarget> FindService(const AuditConfig& config, const std::string& name);

// The policies of a client for what services do under a fault: a breaker of ours would hide that, so it never opens.
// What is shed with a push-back is tried again, as every client of the chassis does.
resilience::DependencyConfig PoliciesOfUsers();

// Created and destroyed by one thread that is not the runtime's; its calls may be made from any task.
class Account {
 public:
  // Registers it, logs in, and waits for the profile. `as`: somebody whom the services let do that. All must outlive
  // the account. Errors: FAILED_PRECONDITION if the stack has no services `identity` and `user`; those of the calls.
  static Result<std::unique_ptr<Account>> Create(runtime::Runtime& runtime, const AuditConfig& config,
                                                 const tls::ChannelIdentity& as);
  // Deletes it; if that fails, the log says so.
  ~Account();
  Account(const Account&) = delete;
  Account& operator=(const Account&) = delete;

  const Uuid& id() const { return id_; }
  // Of the first log-in.
  const Uuid& session_id() const { return session_id_; }
  const Secret<>& token() const { return token_; }

  // Access tokens: of a new session, and of the first one carried on, which one task at a time may do.
  runtime::Task<Secret<>> Login(runtime::Call& call);
  runtime::Task<Secret<>> Refresh(runtime::Call& call);

  // --- Calls by what they need. ---

  // identity: its keys, and its database for the session. An answer for another account is INTERNAL.
  runtime::Task<void> VerifyToken(runtime::Call& call, const Secret<>& token);
  // identity: the same, as the caller.
  runtime::Task<void> ReadAccount(runtime::Call& call, const Secret<>& token);
  // identity: nothing but itself. Returns the key set, as published.
  runtime::Task<std::string> ReadKeys(runtime::Call& call);
  // user: its database; and identity's keys, as they were known last.
  runtime::Task<void> ReadSettings(runtime::Call& call, const Secret<>& token);
  // user: the cache, or else the database; and the keys, if there is a token.
  runtime::Task<void> ReadProfile(runtime::Call& call, const Secret<>* token = nullptr);

  // Everything that can go wrong for an owner: passwords and tokens that are wrong, forged, of nobody, requests that
  // say nonsense. Returns how many calls were refused; each had something in it that is remembered.
  runtime::Task<int> MakeMistakes(runtime::Call& call);

  std::vector<Mark> marks() const;

 private:
  Account(runtime::Runtime& runtime);
  Result<void> Start(const AuditConfig& config, const tls::ChannelIdentity& as);
  runtime::Task<void> SignUp(runtime::Call& call);
  runtime::Task<void> Delete(runtime::Call& call);
  void Remember(const std::string& what, const std::string& value);

  runtime::Runtime& runtime_;
  telemetry::Metrics metrics_;  // nobody scrapes them
  resilience::PeerDependency services_;
  std::unique_ptr<rpc::Client> identity_;
  std::unique_ptr<rpc::Client> user_;
  // Constant after Create.
  std::string email_;
  std::string username_;
  Secret<> password_;
  Uuid id_;
  Uuid session_id_;
  Secret<> token_;
  bool is_registered_ = false;

  mutable std::mutex mutex_;
  Secret<> refresh_token_;   // guarded by mutex_
  std::vector<Mark> marks_;  // guarded by mutex_
};

}  // namespace nova::audit
