#include "services/identity/store.h"

#include <utility>

namespace nova::identity {
namespace {

using postgres::Rows;
using postgres::Statement;
using runtime::Call;
using runtime::Task;

// Whichever constraint is violated, the row is not inserted; an error would have to be sorted by its name.
constexpr Statement kInsertAccount{
    "insert_account",
    "INSERT INTO accounts (id, email, username, password_hash, created_at, registration_key, registration_fingerprint) "
    "VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING"};

#define NOVA_SELECT_ACCOUNT \
  "SELECT id, email, username, created_at, password_hash, registration_key, registration_fingerprint FROM accounts "
constexpr Statement kSelectByRegistrationKey{"select_account_by_registration_key",
                                             NOVA_SELECT_ACCOUNT "WHERE registration_key = $1"};
constexpr Statement kSelectByEmail{"select_account_by_email", NOVA_SELECT_ACCOUNT "WHERE email = $1"};
constexpr Statement kSelectByUsername{"select_account_by_username", NOVA_SELECT_ACCOUNT "WHERE username = $1"};
constexpr Statement kSelectById{"select_account_by_id", NOVA_SELECT_ACCOUNT "WHERE id = $1"};
#undef NOVA_SELECT_ACCOUNT

constexpr Statement kReplacePasswordHash{"replace_password_hash",
                                         "UPDATE accounts SET password_hash = $3 WHERE id = $1 AND password_hash = $2"};

constexpr Statement kInsertSession{"insert_session",
                                   "INSERT INTO sessions (id, account_id, created_at) VALUES ($1, $2, $3)"};

Task<std::optional<StoredAccount>> ReadAccount(Task<Rows> query) {
  NOVA_CO_TRY(const Rows rows, co_await std::move(query));
  if (rows.empty()) co_return std::optional<StoredAccount>();
  StoredAccount found;
  NOVA_CO_TRY(rows[0].Read(found.account.id, found.account.email, found.account.username, found.account.created_at,
                           found.password_hash, found.registration.key, found.registration.fingerprint));
  co_return std::optional(std::move(found));
}

}  // namespace

Task<bool> Store::InsertAccount(Call& call, const StoredAccount& stored) {
  NOVA_CO_TRY(const Rows rows,
              co_await pool_.Query(call, kInsertAccount, stored.account.id, stored.account.email,
                                   stored.account.username, stored.password_hash, stored.account.created_at,
                                   stored.registration.key, stored.registration.fingerprint));
  co_return rows.affected() == 1;
}

Task<std::optional<StoredAccount>> Store::FindByRegistrationKey(Call& call, Uuid key) {
  return ReadAccount(pool_.Query(call, kSelectByRegistrationKey, key));
}

Task<std::optional<StoredAccount>> Store::FindByEmail(Call& call, const std::string& email) {
  return ReadAccount(pool_.Query(call, kSelectByEmail, email));
}

Task<std::optional<StoredAccount>> Store::FindByUsername(Call& call, const std::string& username) {
  return ReadAccount(pool_.Query(call, kSelectByUsername, username));
}

Task<std::optional<StoredAccount>> Store::FindById(Call& call, Uuid id) {
  return ReadAccount(pool_.Query(call, kSelectById, id));
}

Task<void> Store::ReplacePasswordHash(Call& call, Uuid account, const std::string& from, const std::string& to) {
  NOVA_CO_TRY([[maybe_unused]] const Rows rows, co_await pool_.Query(call, kReplacePasswordHash, account, from, to));
  co_return Ok();
}

Task<void> Store::InsertSession(Call& call, Uuid session, Uuid account, WallTime created_at) {
  NOVA_CO_TRY([[maybe_unused]] const Rows rows,
              co_await pool_.Query(call, kInsertSession, session, account, created_at));
  co_return Ok();
}

}  // namespace nova::identity
