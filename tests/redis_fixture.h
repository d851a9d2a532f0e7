// A real Redis for the tests of one executable: the server of `nova up`, with its TLS, users and rules, on a free port
// and in a temporary folder. It starts at first use and ends with the process, however it ends.
//
//   auto& redis = tests::RedisFixture::Instance();
//   redis::Client client(runtime, metrics, dependency, redis.Client("identity"));
//   EXPECT_EQ(redis.Command({"XLEN", "stream:identity"}).integer, 1);
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <sys/types.h>
#include <vector>

#include "local/redis_connection.h"
#include "local/redis_server.h"
#include "nova/base/result.h"
#include "nova/base/secret.h"
#include "nova/redis/config.h"
#include "tests/fixture.h"

namespace nova::tests {

// Used by the main thread only. What cannot be done ends the process with a message, unless said otherwise.
class RedisFixture {
 public:
  static RedisFixture& Instance();

  RedisFixture(const RedisFixture&) = delete;
  RedisFixture& operator=(const RedisFixture&) = delete;
  ~RedisFixture();

  // How the service `name` connects, made known to Redis at the first request: its keys are `<name>:*` and the stream
  // `stream:<name>`, as in `nova up`.
  redis::ClientConfig Client(const std::string& name);

  // One command as a user that may do everything, on a connection of its own: for what a test wants to see, or to
  // break (CLIENT KILL, DEL, XTRIM).
  local::RedisReply Command(const std::vector<std::string>& arguments);
  // The same as a service; what Redis refuses is the result.
  Result<local::RedisReply> CommandAs(const std::string& name, const std::vector<std::string>& arguments);

  // Faults. Kill ends it at once and loses every connection; Restart makes it ready again on the same port, with its
  // data, whether it was killed or not; Wipe does that without its data. Pause stops answering while connections stay
  // open, until Resume.
  void Kill();
  void Restart();
  void Wipe();
  void Pause();
  void Resume();

  int port() const { return config_.port; }
  pid_t process() { return server_->process().pid(); }
  // The authority that signed its certificate, and the folder of the certificate.
  const std::filesystem::path& ca_file() const { return config_.tls.ca; }
  local::RedisServer& server() { return *server_; }

 private:
  RedisFixture();
  const Secret<>& Password(const std::string& name);

  const pid_t owner_;
  FixtureFolder folder_;
  local::RedisConfig config_;
  std::map<std::string, Secret<>> passwords_;  // by user
  std::optional<local::RedisServer> server_;
};

}  // namespace nova::tests
