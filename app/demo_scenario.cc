#include "app/demo_scenario.h"

#include <algorithm>

#include "api/identity/v2/identity.nova.h"
#include "api/user/v2/user.nova.h"

namespace nova::app {
namespace {

using namespace identity::v2;
using namespace user::v2;
using Identity = IdentityServiceMethods;
using Users = UserServiceMethods;
using runtime::Call;
using runtime::Task;

// What another service does after an event is promised within seconds, and takes milliseconds.
constexpr std::chrono::seconds kAppearLimit{5};

// What one part of the scenario leaves for the next.
struct Person {
  RegisterRequest registration;
  std::string account_id;
  LoginResponse session;
  Secret<> token;

  void Use(const LoginResponse& login) {
    session = login;
    token = Secret<>(login.access_token());
  }
};

class Scenario {
 public:
  Scenario(Stage& stage, rpc::Client& identity, rpc::Client& user) : stage_(stage), identity_(identity), user_(user) {}

  Task<void> Run(Call& call) {
    NOVA_CO_TRY(co_await Register(call));
    NOVA_CO_TRY(co_await LogIn(call));
    NOVA_CO_TRY(co_await IsRefused(call));
    NOVA_CO_TRY(co_await UsesProfile(call));
    NOVA_CO_TRY(co_await Refreshes(call));
    NOVA_CO_TRY(co_await ChangesPassword(call));
    NOVA_CO_TRY(co_await IsBanned(call));
    co_return co_await Leaves(call);
  }

 private:
  Task<void> Register(Call& call) {
    RegisterRequest& registration = person_.registration;
    registration.set_email("demo-" + tag_ + "@example.com");
    registration.set_username("demo_" + tag_);
    registration.set_password("correct horse " + tag_);
    registration.set_idempotency_key(Uuid::New().ToString());
    const Judge<RegisterResponse> account_made = [](const RegisterResponse& response) {
      return Verdict{.as_expected = Uuid::Parse(response.account().id()).ok(),
                     .words = "account " + response.account().id()};
    };
    NOVA_CO_TRY(const RegisterResponse made, co_await stage_.Do(call, identity_, Identity::kRegister, registration,
                                                                "register a new account", {}, account_made));
    person_.account_id = made.account().id();

    const Judge<RegisterResponse> same_account = [this](const RegisterResponse& response) {
      const bool same = response.account().id() == person_.account_id;
      return Verdict{.as_expected = same, .words = same ? "the same account" : "another: " + response.account().id()};
    };
    NOVA_CO_TRY(co_await stage_.Do(call, identity_, Identity::kRegister, registration,
                                   "repeat the request, as after a lost answer", {}, same_account));

    RegisterRequest rival = registration;
    rival.set_email("rival-" + tag_ + "@example.com");
    rival.set_idempotency_key(Uuid::New().ToString());
    (void)co_await stage_.Do(call, identity_, Identity::kRegister, rival, "register the same username again",
                             {.expected = Code::kAlreadyExists});
    RegisterRequest malformed = registration;
    malformed.set_email("no-at-sign");
    malformed.set_idempotency_key(Uuid::New().ToString());
    (void)co_await stage_.Do(call, identity_, Identity::kRegister, malformed, "register with a malformed email",
                             {.expected = Code::kInvalidArgument});
    co_return Ok();
  }

  LoginRequest OwnLogin() const {
    LoginRequest login;
    login.set_identifier(person_.registration.email());
    login.set_password(person_.registration.password());
    login.set_device_name("nova demo");
    login.set_device_token(person_.session.device_token());
    return login;
  }

  Task<void> LogIn(Call& call) {
    const Judge<LoginResponse> token_given = [this](const LoginResponse& response) {
      return Verdict{.as_expected = response.account_id() == person_.account_id,
                     .words = "access token of " + std::to_string(response.access_token().size()) + " bytes"};
    };
    NOVA_CO_TRY(const LoginResponse login,
                co_await stage_.Do(call, identity_, Identity::kLogin, OwnLogin(), "log in", {}, token_given));
    person_.Use(login);

    VerifyTokenRequest verify;
    verify.set_access_token(login.access_token());
    const Judge<VerifyTokenResponse> verified = [this](const VerifyTokenResponse& response) {
      const bool same = response.account_id() == person_.account_id;
      return Verdict{.as_expected = same, .words = same ? "it names the account" : "it names " + response.account_id()};
    };
    NOVA_CO_TRY(co_await stage_.Do(call, identity_, Identity::kVerifyToken, verify, "verify the token", {}, verified));

    const Judge<GetAccountResponse> own = [this](const GetAccountResponse& response) {
      return Verdict{.as_expected = response.account().id() == person_.account_id,
                     .words = "'" + response.account().username() + "', taken from the token"};
    };
    NOVA_CO_TRY(co_await stage_.Do(call, identity_, Identity::kGetAccount, GetAccountRequest(), "read the own account",
                                   {.access_token = &person_.token}, own));

    const Judge<GetJwksResponse> keys = [](const GetJwksResponse& response) {
      return Verdict{.as_expected = response.jwks().find("\"keys\"") != std::string::npos,
                     .words = std::to_string(response.jwks().size()) + " bytes of public keys"};
    };
    NOVA_CO_TRY(
        co_await stage_.Do(call, identity_, Identity::kGetJwks, GetJwksRequest(), "fetch the public keys", {}, keys));
    co_return Ok();
  }

  Task<void> IsRefused(Call& call) {
    (void)co_await stage_.Do(call, identity_, Identity::kGetAccount, GetAccountRequest(),
                             "read the account without a token", {.expected = Code::kUnauthenticated});
    LoginRequest wrong = OwnLogin();
    wrong.clear_device_token();
    wrong.set_password("not the password");
    const auto refused = co_await stage_.Do(call, identity_, Identity::kLogin, wrong, "log in with a wrong password",
                                            {.expected = Code::kUnauthenticated});
    LoginRequest nobody = wrong;
    nobody.set_identifier("nobody-" + tag_ + "@example.com");
    (void)co_await stage_.Do(
        call, identity_, Identity::kLogin, nobody, "log in as nobody: same answer",
        {.expected = Code::kUnauthenticated, .refused_in_words = refused ? std::string() : refused.error().message()});

    VerifyTokenRequest tampered;
    tampered.set_access_token(person_.session.access_token());
    // One character of the payload, which lies between the two dots.
    std::string& text = *tampered.mutable_access_token();
    char& changed = text[text.find('.') + 5];
    changed = changed == 'A' ? 'B' : 'A';
    (void)co_await stage_.Do(call, identity_, Identity::kVerifyToken, tampered, "verify a tampered token",
                             {.expected = Code::kUnauthenticated});
    co_return Ok();
  }

  Task<void> UsesProfile(Call& call) {
    GetUserRequest own;
    own.set_user_id(person_.account_id);
    const Judge<GetUserResponse> is_there = [](const GetUserResponse& response) {
      return Verdict{.words = "'" + response.user().username() + "', made by the event of the registration"};
    };
    NOVA_CO_TRY(const GetUserResponse profile,
                co_await stage_.Do(call, user_, Users::kGetUser, own, "the profile appears by itself",
                                   {.access_token = &person_.token, .appears_within = kAppearLimit}, is_there));

    GetUserByUsernameRequest by_name;
    std::string capitals = person_.registration.username();
    std::ranges::transform(capitals, capitals.begin(),
                           [](char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; });
    by_name.set_username(capitals);
    const Judge<GetUserByUsernameResponse> found = [this](const GetUserByUsernameResponse& response) {
      return Verdict{.as_expected = response.user().id() == person_.account_id, .words = response.user().username()};
    };
    NOVA_CO_TRY(
        co_await stage_.Do(call, user_, Users::kGetUserByUsername, by_name, "find it as " + capitals, {}, found));

    UpdateProfileRequest update;
    update.set_expected_version(profile.user().version());
    update.set_bio("Here to show that it works.");
    const Judge<UpdateProfileResponse> next_version = [&](const UpdateProfileResponse& response) {
      return Verdict{.as_expected = response.user().version() == profile.user().version() + 1,
                     .words = "version " + std::to_string(response.user().version())};
    };
    NOVA_CO_TRY(co_await stage_.Do(call, user_, Users::kUpdateProfile, update, "write a biography",
                                   {.access_token = &person_.token}, next_version));
    (void)co_await stage_.Do(call, user_, Users::kUpdateProfile, update, "write it again from the version before",
                             {.expected = Code::kAborted, .access_token = &person_.token});

    GetUsersByIdsRequest many;
    many.add_user_ids(Uuid::New().ToString());
    many.add_user_ids(person_.account_id);
    many.add_user_ids(many.user_ids(0));
    const Judge<GetUsersByIdsResponse> in_order = [&](const GetUsersByIdsResponse& response) {
      bool right = response.entries_size() == many.user_ids_size();
      for (int i = 0; right && i < many.user_ids_size(); ++i)
        right = response.entries(i).user_id() == many.user_ids(i) && response.entries(i).found() == (i == 1);
      return Verdict{.as_expected = right, .words = std::to_string(response.entries_size()) + " answers, in order"};
    };
    NOVA_CO_TRY(co_await stage_.Do(call, user_, Users::kGetUsersByIds, many, "ask for three, two of them nobody's", {},
                                   in_order));

    NOVA_CO_TRY(const GetSettingsResponse settings,
                co_await stage_.Do(call, user_, Users::kGetSettings, GetSettingsRequest(), "read the settings",
                                   {.access_token = &person_.token}));
    UpdateSettingsRequest hide;
    hide.set_expected_version(settings.settings().version());
    hide.set_profile_visibility(VISIBILITY_PRIVATE);
    NOVA_CO_TRY(co_await stage_.Do(call, user_, Users::kUpdateSettings, hide, "make the profile private",
                                   {.access_token = &person_.token}));
    const Judge<GetUserResponse> less = [](const GetUserResponse& response) {
      const bool hidden = response.user().bio().empty() && response.user().is_private();
      return Verdict{.as_expected = hidden, .words = hidden ? "the names, and no biography" : "the biography"};
    };
    NOVA_CO_TRY(co_await stage_.Do(call, user_, Users::kGetUser, own, "look at it as a stranger", {}, less));
    co_return Ok();
  }

  Task<void> Refreshes(Call& call) {
    RefreshTokenRequest first;
    first.set_refresh_token(person_.session.refresh_token());
    NOVA_CO_TRY(const RefreshTokenResponse second,
                co_await stage_.Do(call, identity_, Identity::kRefreshToken, first, "refresh the session"));
    const Judge<RefreshTokenResponse> same = [&](const RefreshTokenResponse& response) {
      return Verdict{.as_expected = response.refresh_token() == second.refresh_token(), .words = "the same successor"};
    };
    NOVA_CO_TRY(co_await stage_.Do(call, identity_, Identity::kRefreshToken, first, "repeat it, as after a lost answer",
                                   {}, same));
    RefreshTokenRequest next;
    next.set_refresh_token(second.refresh_token());
    NOVA_CO_TRY(const RefreshTokenResponse third,
                co_await stage_.Do(call, identity_, Identity::kRefreshToken, next, "refresh again"));
    (void)co_await stage_.Do(call, identity_, Identity::kRefreshToken, first, "a thief presents the spent token",
                             {.expected = Code::kUnauthenticated});
    next.set_refresh_token(third.refresh_token());
    (void)co_await stage_.Do(call, identity_, Identity::kRefreshToken, next, "the whole session is revoked",
                             {.expected = Code::kUnauthenticated});
    co_return Ok();
  }

  Task<void> ChangesPassword(Call& call) {
    NOVA_CO_TRY(const LoginResponse login,
                co_await stage_.Do(call, identity_, Identity::kLogin, OwnLogin(), "log in again"));
    person_.Use(login);
    const Judge<ListSessionsResponse> only_one = [&](const ListSessionsResponse& response) {
      const bool right = response.sessions_size() == 1 && response.sessions(0).id() == login.session_id() &&
                         response.sessions(0).current();
      return Verdict{.as_expected = right,
                     .words = std::to_string(response.sessions_size()) + " alive, '" +
                              (right ? response.sessions(0).device_name() : std::string()) + "'"};
    };
    NOVA_CO_TRY(co_await stage_.Do(call, identity_, Identity::kListSessions, ListSessionsRequest(), "list the sessions",
                                   {.access_token = &person_.token}, only_one));

    ChangePasswordRequest change;
    change.set_current_password(person_.registration.password());
    change.set_new_password("battery staple " + tag_);
    NOVA_CO_TRY(co_await stage_.Do(call, identity_, Identity::kChangePassword, change, "change the password",
                                   {.access_token = &person_.token}));
    (void)co_await stage_.Do(call, identity_, Identity::kLogin, OwnLogin(), "log in with the old one",
                             {.expected = Code::kUnauthenticated});
    person_.registration.set_password(change.new_password());

    NOVA_CO_TRY(co_await stage_.Do(call, identity_, Identity::kLogout, LogoutRequest(), "log out",
                                   {.access_token = &person_.token}));
    VerifyTokenRequest verify;
    verify.set_access_token(person_.session.access_token());
    (void)co_await stage_.Do(call, identity_, Identity::kVerifyToken, verify, "the token of that session is void",
                             {.expected = Code::kUnauthenticated});
    co_return Ok();
  }

  Task<void> IsBanned(Call& call) {
    BanUserRequest ban;
    ban.set_user_id(person_.account_id);
    ban.set_reason("to show that it works");
    NOVA_CO_TRY(co_await stage_.Do(call, user_, Users::kBanUser, ban, "an operator bans the user"));
    (void)co_await stage_.Do(call, identity_, Identity::kLogin, OwnLogin(), "identity hears of it: no log-in",
                             {.expected = Code::kPermissionDenied, .appears_within = kAppearLimit});
    UnbanUserRequest unban;
    unban.set_user_id(person_.account_id);
    NOVA_CO_TRY(co_await stage_.Do(call, user_, Users::kUnbanUser, unban, "and relents"));
    NOVA_CO_TRY(const LoginResponse login,
                co_await stage_.Do(call, identity_, Identity::kLogin, OwnLogin(), "identity hears of that, too",
                                   {.appears_within = kAppearLimit}));
    person_.Use(login);
    co_return Ok();
  }

  Task<void> Leaves(Call& call) {
    NOVA_CO_TRY(co_await stage_.Do(call, user_, Users::kDeleteUser, DeleteUserRequest(), "delete the user",
                                   {.access_token = &person_.token}));
    GetUserByUsernameRequest by_name;
    by_name.set_username(person_.registration.username());
    (void)co_await stage_.Do(call, user_, Users::kGetUserByUsername, by_name, "the profile is gone",
                             {.expected = Code::kNotFound, .appears_within = kAppearLimit});
    (void)co_await stage_.Do(call, identity_, Identity::kLogin, OwnLogin(), "so is the account, by an event",
                             {.expected = Code::kUnauthenticated, .appears_within = kAppearLimit});
    co_return Ok();
  }

  const std::string tag_ = Uuid::New().ToString().substr(24);  // random part: every run has an account of its own
  Stage& stage_;
  rpc::Client& identity_;
  rpc::Client& user_;
  Person person_;
};

}  // namespace

Result<void> RunDemo(Stage& stage, const DemoTargets& targets, const tls::ChannelIdentity& me,
                     telemetry::Metrics& metrics) {
  resilience::PeerDependency identity_peer("identity", metrics);
  resilience::PeerDependency user_peer("user", metrics);
  rpc::Client identity(metrics, identity_peer,
                       {.principal = "identity", .target = targets.identity, .own_connection = true}, me);
  rpc::Client user(metrics, user_peer, {.principal = "user", .target = targets.user, .own_connection = true}, me);
  runtime::Runtime runtime;
  Scenario scenario(stage, identity, user);
  return runtime.RunBlocking<void>(kDemoLimit, [&](Call& call) { return scenario.Run(call); });
}

}  // namespace nova::app
