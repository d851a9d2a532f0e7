#include "tests/redis_fixture.h"

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <system_error>
#include <unistd.h>

#include "nova/tls/authority.h"
#include "nova/tls/certificate.h"
#include "tests/postgres_fixture.h"

namespace nova::tests {
namespace {

namespace fs = std::filesystem;

// Another process may take a free port between the look and the bind.
constexpr int kStartAttempts = 5;
constexpr char kTester[] = "tester";

}  // namespace

RedisFixture& RedisFixture::Instance() {
  static RedisFixture fixture;
  return fixture;
}

RedisFixture::RedisFixture() : owner_(::getpid()), folder_("nova-test-redis-") {
  std::optional<local::User> user;
  std::optional<tls::FileOwner> owner;
  if (::geteuid() == 0) {
    user = Must(local::FindUser(local::kRedisAccount));
    owner = tls::FileOwner{.uid = user->uid, .gid = user->gid};
  }
  tls::Authority authority = Must(tls::Authority::Create(folder_.path() / "ca", Clock::System()));
  Must(authority.Issue({.principal = std::string(local::kRedisPrincipal), .owner = owner}, folder_.path() / "tls"));
  Must(local::MakeDirectory(folder_.path() / "redis", 0700, user));

  passwords_[kTester] = Secret<>(local::RandomText());
  config_ = {.folder = folder_.path() / "redis",
             .log_file = folder_.path() / "redis.log",
             .user = user,
             .users = {{kTester, passwords_[kTester], "~* &* +@all"}},
             .tls = local::TlsFiles::In(folder_.path() / "tls"),
             .durable = false};
  for (int attempt = 1; !server_; ++attempt) {
    config_.port = FreePort();
    auto started = local::RedisServer::Start(config_);
    if (started) {
      server_ = *std::move(started);
    } else if (attempt == kStartAttempts) {
      Die(started.error());
    }
  }
}

RedisFixture::~RedisFixture() {
  // A process forked by a test has a copy of this object, but neither the server nor the folder are its own.
  if (::getpid() != owner_) std::_Exit(0);
  server_.reset();
}

const Secret<>& RedisFixture::Password(const std::string& name) {
  if (auto known = passwords_.find(name); known != passwords_.end()) return known->second;
  Secret<> password(local::RandomText());
  const std::string rules = local::RedisServiceRules(name);
  // Reading the whole list of users again would disconnect those that are there.
  std::vector<std::string> command{"ACL", "SETUSER", name, "on", ">" + password.Expose()};
  for (std::size_t begin = 0; begin < rules.size();) {
    const std::size_t end = std::min(rules.find(' ', begin), rules.size());
    command.push_back(rules.substr(begin, end - begin));
    begin = end + 1;
  }
  Command(command);
  config_.users.push_back({.name = name, .password = password, .rules = rules});
  return passwords_[name] = std::move(password);
}

redis::ClientConfig RedisFixture::Client(const std::string& name) {
  redis::ClientConfig client;
  client.host = "127.0.0.1";
  client.port = port();
  client.user = name;
  client.password = Password(name);
  client.ca_path = ca_file().string();
  client.server_name = tls::ServiceDnsName(local::kRedisPrincipal);
  return client;
}

local::RedisReply RedisFixture::Command(const std::vector<std::string>& arguments) {
  return Must(CommandAs(kTester, arguments));
}

Result<local::RedisReply> RedisFixture::CommandAs(const std::string& name, const std::vector<std::string>& arguments) {
  NOVA_TRY(auto connection, local::RedisConnection::Open(server_->Target(name, Password(name))));
  return connection.Execute(arguments);
}

void RedisFixture::Kill() {
  Must(server_->process().Send(SIGKILL));
  Must(server_->process().Wait(std::chrono::seconds(10)));
}

void RedisFixture::Restart() {
  server_.reset();
  server_ = Must(local::RedisServer::Start(config_));
}

void RedisFixture::Wipe() {
  server_.reset();
  std::error_code error;
  fs::remove_all(config_.folder / "appendonlydir", error);
  if (error) Die(Internal("cannot remove the data: " + error.message()));
  server_ = Must(local::RedisServer::Start(config_));
}

void RedisFixture::Pause() { Must(server_->process().Send(SIGSTOP)); }
void RedisFixture::Resume() { Must(server_->process().Send(SIGCONT)); }

}  // namespace nova::tests
