// Redis as it is configured here: what it refuses, what a user may do, what it keeps.
#include <boost/asio/ssl.hpp>
#include <fmt/format.h>
#include <fstream>
#include <gtest/gtest.h>
#include <sstream>
#include <sys/stat.h>

#include "local/redis_connection.h"
#include "local/redis_server.h"
#include "nova/tls/authority.h"
#include "nova/tls/certificate.h"
#include "tests/redis_fixture.h"

namespace nova::local {
namespace {

namespace asio = boost::asio;
namespace fs = std::filesystem;
using boost::system::error_code;
using namespace std::chrono_literals;

tests::RedisFixture& Redis() { return tests::RedisFixture::Instance(); }

// What Redis says to a command of a service; "" when it does not refuse it.
std::string Refused(const std::string& service, const std::vector<std::string>& command) {
  auto reply = Redis().CommandAs(service, command);
  return reply ? std::string() : reply.error().message();
}

// The named setting of a server.
std::string Setting(const std::string& name) {
  const RedisReply reply = Redis().Command({"CONFIG", "GET", name});
  return reply.elements.size() == 2 ? reply.elements[1].text : "(none)";
}

TEST(Local, RedisListensForTlsOnLoopbackAlone) {
  EXPECT_EQ(Setting("port"), "0");
  EXPECT_EQ(Setting("tls-port"), std::to_string(Redis().port()));
  EXPECT_EQ(Setting("bind"), "127.0.0.1");
  EXPECT_EQ(Setting("unixsocket"), "");
  EXPECT_EQ(Setting("maxmemory-policy"), "volatile-lru");
  EXPECT_EQ(Setting("maxmemory"), std::to_string(256 << 20));
  EXPECT_EQ(Setting("appendonly"), "yes");
  EXPECT_EQ(Setting("aof-load-truncated"), "yes");

  // It says nothing to plaintext.
  asio::io_context context;
  asio::ip::tcp::socket plain(context);
  plain.connect({asio::ip::address_v4::loopback(), static_cast<asio::ip::port_type>(Redis().port())});
  asio::write(plain, asio::buffer(std::string_view("PING\r\n")));
  std::string answer;
  error_code error;
  asio::read(plain, asio::dynamic_buffer(answer), error);
  EXPECT_EQ(answer.find("PONG"), std::string::npos);

  auto handshake = [](int version) {
    asio::io_context own;
    asio::ssl::context tls(asio::ssl::context::tls_client);
    ::SSL_CTX_set_min_proto_version(tls.native_handle(), version);
    ::SSL_CTX_set_max_proto_version(tls.native_handle(), version);
    asio::ssl::stream<asio::ip::tcp::socket> stream(own, tls);
    stream.lowest_layer().connect({asio::ip::address_v4::loopback(), static_cast<asio::ip::port_type>(Redis().port())});
    error_code refused;
    stream.handshake(asio::ssl::stream_base::client, refused);
    return refused;
  };
  EXPECT_FALSE(handshake(TLS1_3_VERSION));
  EXPECT_TRUE(handshake(TLS1_2_VERSION));
}

TEST(Local, RedisKnowsNobodyWithoutAPassword) {
  RedisTarget target = Redis().server().Target("identity", Secret<>("wrong"));
  Redis().Client("identity");
  for (const char* user : {"identity", "default", "nobody"}) {
    target.user = user;
    auto refused = RedisConnection::Open(target);
    ASSERT_FALSE(refused) << user;
    EXPECT_EQ(refused.error().code(), Code::kUnauthenticated) << refused.error().ToString();
  }
  const RedisReply users = Redis().Command({"ACL", "LIST"});
  ASSERT_FALSE(users.elements.empty());
  for (const RedisReply& user : users.elements) {
    EXPECT_EQ(user.text.find("nopass"), std::string::npos) << user.text;
    EXPECT_EQ(user.text.find(" on ") == std::string::npos, user.text.starts_with("user default ")) << user.text;
  }
}

TEST(Local, AConnectionVerifiesWhoAnswers) {
  RedisTarget target = Redis().server().Target("identity", Secret<>("any"));
  target.server_name = tls::ServiceDnsName("identity");
  auto other = RedisConnection::Open(target);
  ASSERT_FALSE(other);
  EXPECT_EQ(other.error().code(), Code::kUnavailable) << other.error().ToString();
  EXPECT_NE(other.error().message().find("verify"), std::string::npos) << other.error().message();
}

TEST(Local, AServiceMayDoItsWork) {
  const std::string own = "stream:identity";
  for (const auto& command : std::vector<std::vector<std::string>>{
           {"PING"},
           {"CLIENT", "SETNAME", "identity"},
           {"SET", "identity:a", "1", "PX", "60000", "NX"},
           {"MGET", "identity:a", "identity:b"},
           {"INCR", "identity:a"},
           {"PEXPIRE", "identity:a", "1000"},
           {"HSET", "identity:h", "f", "v"},
           {"ZADD", "identity:z", "1", "v"},
           {"EVAL", "return redis.call('SET', KEYS[1], ARGV[1])", "1", "identity:c", "x"},
           {"SCRIPT", "LOAD", "return 1"},
           {"DEL", "identity:a", "identity:c", "identity:h", "identity:z"},
           {"XADD", own, "1-1", "e", "x"},
           {"XADD", own, "MAXLEN", "~", "100000", "1-2", "e", "x"},
           {"XREVRANGE", own, "+", "-", "COUNT", "1"},
           {"XINFO", "STREAM", own},
           {"XTRIM", own, "MINID", "~", "1"},
           {"EVAL", "return redis.call('XADD', KEYS[1], '*', 'e', ARGV[1])", "1", own, "x"},
           {"MULTI"},
       }) {
    EXPECT_EQ(Refused("identity", command), "") << command[0] << " " << command.back();
  }
  // And as a consumer of another's stream, whether or not that was there first.
  for (const auto& command : std::vector<std::vector<std::string>>{
           {"XGROUP", "CREATE", "stream:search", "identity", "0", "MKSTREAM"},
           {"XGROUP", "CREATE", "stream:user", "identity", "0", "MKSTREAM"},
           {"XREADGROUP", "GROUP", "identity", "one", "COUNT", "10", "STREAMS", "stream:user", ">"},
           {"XACK", "stream:user", "identity", "1-1"},
           {"XPENDING", "stream:user", "identity"},
           {"XREAD", "COUNT", "10", "STREAMS", "stream:user", "0"},
           {"XRANGE", "stream:user", "-", "+"},
           {"XINFO", "GROUPS", "stream:user"},
           {"XLEN", "stream:user"},
       }) {
    EXPECT_EQ(Refused("identity", command), "") << command[0] << " " << command.back();
  }
}

TEST(Local, AServiceMayDoNoMore) {
  Redis().Client("user");
  Redis().Command({"SET", "user:secret", "x"});
  for (const auto& command : std::vector<std::vector<std::string>>{
           // The server and its other clients.
           {"FLUSHALL"},
           {"FLUSHDB"},
           {"CONFIG", "GET", "*"},
           {"CONFIG", "SET", "maxmemory", "1"},
           {"SHUTDOWN"},
           {"DEBUG", "SLEEP", "0"},
           {"MONITOR"},
           {"CLIENT", "LIST"},
           {"CLIENT", "KILL", "TYPE", "normal"},
           {"ACL", "LIST"},
           {"ACL", "SETUSER", "identity", "~*"},
           {"BGREWRITEAOF"},
           {"SLOWLOG", "GET"},
           {"INFO"},
           {"REPLICAOF", "127.0.0.1", "1"},
           {"SCRIPT", "FLUSH"},
           {"FUNCTION", "FLUSH"},
           {"MODULE", "LIST"},
           {"SUBSCRIBE", "news"},
           // Names and values of others.
           {"KEYS", "*"},
           {"SCAN", "0"},
           {"RANDOMKEY"},
           {"CLIENT", "TRACKING", "ON", "BCAST"},
           {"GET", "user:secret"},
           {"SET", "user:secret", "y"},
           {"DEL", "user:secret"},
           {"COPY", "user:secret", "identity:copy"},
           {"EVAL", "return redis.call('GET', 'user:secret')", "0"},
           {"SET", "anything", "x"},
           // Publishing in another's name, and breaking its stream.
           {"XADD", "stream:user", "*", "e", "x"},
           {"XTRIM", "stream:user", "MAXLEN", "0"},
           {"XDEL", "stream:user", "1-1"},
           {"DEL", "stream:user"},
           {"SET", "stream:user", "x"},
           {"XGROUP", "DESTROY", "stream:user", "user"},
           {"XSETID", "stream:user", "9-9"},
           {"EVAL", "return redis.call('XADD', 'events:user', '*', 'e', 'x')", "0"},
           {"RENAME", "identity:a", "stream:user"},
       }) {
    EXPECT_NE(Refused("identity", command), "") << command[0] << " " << command.back();
  }
  EXPECT_EQ(Redis().Command({"GET", "user:secret"}).text, "x");
}

TEST(Local, AuditReadsSettingsAndLagAndNoValue) {
  const Secret<> password(RandomText());
  std::vector<std::string> command{"ACL", "SETUSER", "audit", "on", ">" + password.Expose()};
  std::istringstream rules(RedisAuditRules());
  for (std::string rule; rules >> rule;) command.push_back(rule);
  Redis().Command(command);
  Redis().Command({"XADD", "stream:audited", "*", "e", "x"});
  Redis().Command({"SET", "identity:value", "x"});

  auto audit = RedisConnection::Open(Redis().server().Target("audit", password));
  ASSERT_TRUE(audit) << audit.error().ToString();
  EXPECT_TRUE(audit->Execute({"PING"}));
  auto info = audit->Execute({"INFO"});
  ASSERT_TRUE(info) << info.error().ToString();
  EXPECT_NE(info->text.find("aof_enabled:1"), std::string::npos);
  EXPECT_TRUE(audit->Execute({"CONFIG", "GET", "tls-port"}));
  auto length = audit->Execute({"XLEN", "stream:audited"});
  ASSERT_TRUE(length);
  EXPECT_EQ(length->integer, 1);
  EXPECT_TRUE(audit->Execute({"XINFO", "GROUPS", "stream:audited"}));
  for (const auto& refused : std::vector<std::vector<std::string>>{{"CONFIG", "SET", "maxmemory", "1"},
                                                                   {"XRANGE", "stream:audited", "-", "+"},
                                                                   {"XINFO", "STREAM", "stream:audited"},
                                                                   {"XADD", "stream:audited", "*", "e", "x"},
                                                                   {"GET", "identity:value"},
                                                                   {"KEYS", "*"},
                                                                   {"ACL", "LIST"}}) {
    auto reply = audit->Execute(refused);
    ASSERT_FALSE(reply) << refused[0];
    EXPECT_EQ(reply.error().code(), Code::kPermissionDenied) << reply.error().ToString();
  }
}

TEST(Local, AKilledRedisKeepsWhatItAcknowledged) {
  constexpr int kWrites = 500;
  Redis().Command({"DEL", "stream:identity"});
  for (int round = 1; round <= 3; ++round) {
    for (int i = 0; i < kWrites / 100; ++i) {
      // A script writes a hundred, in one go: it stands in the log as a transaction.
      Redis().Command(
          {"EVAL", "for i = 1, 100 do redis.call('XADD', KEYS[1], '*', 'e', i) end", "1", "stream:identity"});
    }
    Redis().Kill();
    EXPECT_FALSE(Redis().CommandAs("identity", {"PING"}));
    Redis().Restart();
    EXPECT_EQ(Redis().Command({"XLEN", "stream:identity"}).integer, kWrites * round);
  }
  Redis().Wipe();
  EXPECT_EQ(Redis().Command({"XLEN", "stream:identity"}).integer, 0);
}

TEST(Local, ALogThatWasCutInTheLastWriteIsRead) {
  Redis().Wipe();
  Redis().Command({"SET", "identity:first", "kept"});
  Redis().Command({"SET", "identity:last", "cut"});
  const fs::path folder = Redis().server().config().folder / "appendonlydir";
  Redis().Kill();
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() == ".aof" && entry.path().string().find(".incr.") != std::string::npos) {
      ASSERT_GT(entry.file_size(), 5U);
      fs::resize_file(entry.path(), entry.file_size() - 5);
    }
  }
  Redis().Restart();
  EXPECT_EQ(Redis().Command({"GET", "identity:first"}).text, "kept");
  EXPECT_TRUE(Redis().Command({"GET", "identity:last"}).nil);
}

TEST(Local, WhatRedisRefusesSaysWhetherWaitingHelps) {
  // A script may answer with any error, so also with those of a server that reads its data or is a replica.
  auto code_of = [](const std::string& refusal) {
    auto reply = Redis().CommandAs("identity", {"EVAL", "return redis.error_reply(ARGV[1])", "0", refusal});
    return reply ? Code::kOk : reply.error().code();
  };
  EXPECT_EQ(code_of("LOADING Redis is loading the dataset in memory"), Code::kUnavailable);
  EXPECT_EQ(code_of("BUSY Redis is busy running a script"), Code::kUnavailable);
  EXPECT_EQ(code_of("MASTERDOWN Link with MASTER is down"), Code::kUnavailable);
  EXPECT_EQ(code_of("NOPERM no"), Code::kPermissionDenied);
  EXPECT_EQ(code_of("ERR anything else"), Code::kInternal);
}

TEST(Local, RedisPresentsARenewedCertificateAndKeepsItsConnections) {
  auto serial = [] {
    asio::io_context context;
    asio::ssl::context tls(asio::ssl::context::tls_client);
    asio::ssl::stream<asio::ip::tcp::socket> stream(context, tls);
    stream.lowest_layer().connect({asio::ip::address_v4::loopback(), static_cast<asio::ip::port_type>(Redis().port())});
    stream.handshake(asio::ssl::stream_base::client);
    X509* certificate = ::SSL_get1_peer_certificate(stream.native_handle());
    BIGNUM* number = ::ASN1_INTEGER_to_BN(::X509_get0_serialNumber(certificate), nullptr);
    char* text = ::BN_bn2hex(number);
    std::string found = text;
    ::OPENSSL_free(text);
    ::BN_free(number);
    ::X509_free(certificate);
    return found;
  };
  const std::string before = serial();
  EXPECT_EQ(serial(), before);
  const redis::ClientConfig client = Redis().Client("identity");
  auto connection = RedisConnection::Open(Redis().server().Target("identity", client.password));
  ASSERT_TRUE(connection) << connection.error().ToString();

  const fs::path folder = Redis().ca_file().parent_path();
  auto authority = tls::Authority::Load(folder.parent_path() / "ca", Clock::System());
  ASSERT_TRUE(authority) << authority.error().ToString();
  struct stat key{};
  ASSERT_EQ(::stat((folder / "tls.key").c_str(), &key), 0);
  ASSERT_TRUE(
      authority->Issue({.principal = "redis", .owner = tls::FileOwner{.uid = key.st_uid, .gid = key.st_gid}}, folder));
  EXPECT_EQ(serial(), before);
  auto reloaded = Redis().server().Reload();
  ASSERT_TRUE(reloaded) << reloaded.error().ToString();
  EXPECT_NE(serial(), before);
  EXPECT_TRUE(connection->Execute({"PING"}));
  EXPECT_EQ(Refused("identity", {"PING"}), "");
}

TEST(Local, APausedRedisAnswersNothingUntilItIsResumed) {
  Redis().Pause();
  auto nobody = RedisConnection::Open(Redis().server().Target("identity", Secret<>("any")), 200ms);
  Redis().Resume();
  ASSERT_FALSE(nobody);
  EXPECT_EQ(nobody.error().code(), Code::kDeadlineExceeded) << nobody.error().ToString();
  EXPECT_EQ(Refused("identity", {"PING"}), "");
}

TEST(Local, RedisRunsWithoutRightsAndItsFilesAreItsOwn) {
  struct stat info{};
  ASSERT_EQ(::stat(fmt::format("/proc/{}", Redis().process()).c_str(), &info), 0);
  EXPECT_NE(info.st_uid, 0U);
  const RedisConfig& config = Redis().server().config();
  ASSERT_EQ(::stat(config.folder.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0700U);
  Redis().Client("identity");
  for (const char* file : {"redis.conf", "users.acl"}) {
    std::ifstream stream(config.folder / file);
    std::string text(std::istreambuf_iterator<char>(stream), {});
    ASSERT_FALSE(text.empty()) << file;
    for (const RedisUser& user : config.users) {
      EXPECT_EQ(text.find(user.password.Expose()), std::string::npos) << file;
    }
  }
}

TEST(Local, RedisStopsInOrderAndOrphansAreFound) {
  const RedisConfig config = Redis().server().config();
  auto stopped = Redis().server().Stop();
  EXPECT_TRUE(stopped) << stopped.error().ToString();
  EXPECT_TRUE(EndRedisOrphans(config.folder, 1s));
  // One that nobody knows of any more.
  auto orphan = RedisServer::Start(config);
  ASSERT_TRUE(orphan) << orphan.error().ToString();
  EXPECT_TRUE(EndRedisOrphans(config.folder, 500ms));
  EXPECT_TRUE(orphan->process().Wait(5s));
  Redis().Restart();
  EXPECT_EQ(Refused("identity", {"PING"}), "");
}

}  // namespace
}  // namespace nova::local
