#include "nova/secrets/sigv4.h"

#include <algorithm>
#include <boost/json.hpp>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <iostream>
#include <random>
#include <sstream>
#include <string>
#include <unistd.h>
#include <vector>

#include "tests/seed.h"

namespace nova::secrets {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

WallTime TimeOf(const std::string& text) {
  std::tm parts{};
  EXPECT_NE(strptime(text.c_str(), "%Y-%m-%dT%H:%M:%SZ", &parts), nullptr) << text;
  return std::chrono::system_clock::from_time_t(timegm(&parts));
}

std::string HeaderOf(const http::Request& request, std::string_view name) {
  return std::string(request.headers.Get(name));
}

// Of the documentation of S3, "Signature calculations for the Authorization header": a GET of a lifecycle.
// https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
TEST(SigV4Test, SignsAsTheDocumentationShows) {
  http::Request request{.method = "GET", .path = "/", .query = "lifecycle"};
  request.headers.Add("Host", "examplebucket.s3.amazonaws.com");
  request.headers.Add("x-amz-content-sha256", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  const Credentials credentials{.access_key_id = "AKIAIOSFODNN7EXAMPLE",
                                .secret_access_key = Secret<>("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")};
  Sign(request, credentials, {.region = "us-east-1", .service = "s3"}, TimeOf("2013-05-24T00:00:00Z"));
  EXPECT_EQ(HeaderOf(request, "X-Amz-Date"), "20130524T000000Z");
  EXPECT_EQ(HeaderOf(request, "Authorization"),
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, "
            "SignedHeaders=host;x-amz-content-sha256;x-amz-date, "
            "Signature=fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543");
}

TEST(SigV4Test, AnotherKeyTimeRegionOrBodyIsAnotherSignature) {
  const auto sign = [](const std::string& key, const std::string& region, const std::string& body, int minute) {
    http::Request request{.method = "POST", .path = "/", .body = body};
    request.headers.Add("Host", "secretsmanager.eu-central-1.amazonaws.com");
    Sign(request, {.access_key_id = "AKID", .secret_access_key = Secret<>(key)},
         {.region = region, .service = "secretsmanager"},
         TimeOf("2026-01-31T12:00:00Z") + std::chrono::minutes(minute));
    const std::string all = HeaderOf(request, "Authorization");
    return all.substr(all.find("Signature="));
  };
  const std::string first = sign("key", "eu-central-1", "{}", 0);
  EXPECT_EQ(first, sign("key", "eu-central-1", "{}", 0));
  EXPECT_NE(first, sign("kez", "eu-central-1", "{}", 0));
  EXPECT_NE(first, sign("key", "eu-central-2", "{}", 0));
  EXPECT_NE(first, sign("key", "eu-central-1", "{ }", 0));
  EXPECT_NE(first, sign("key", "eu-central-1", "{}", 1));
}

fs::path SourceFolder() {
  const char* const folder = std::getenv("TEST_SOURCE_DIR");
  return folder != nullptr ? folder : ".";
}

// --- The published vectors: one folder each, as the SDKs of AWS have them. ---

constexpr char kVectors[] = "../shared/data/sigv4/tests/aws-signing-test-suite/v4";

std::string ReadFile(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string Text(const json::object& object, std::string_view key) {
  const json::value* const value = object.if_contains(key);
  return value != nullptr && value->is_string() ? std::string(value->get_string()) : std::string();
}

bool Flag(const json::object& object, std::string_view key) {
  const json::value* const value = object.if_contains(key);
  return value != nullptr && value->is_bool() && value->get_bool();
}

// "GET /path?query HTTP/1.1", headers, an empty line, the body. Blanks in the path are literal.
http::Request ParseRequest(const std::string& text) {
  http::Request request;
  std::stringstream lines(text);
  std::string line;
  std::getline(lines, line);
  const std::size_t method = line.find(' ');
  const std::size_t version = line.rfind(' ');
  request.method = line.substr(0, method);
  const std::string target = line.substr(method + 1, version - method - 1);
  const std::size_t query = target.find('?');
  request.path = target.substr(0, query);
  if (query != std::string::npos) request.query = target.substr(query + 1);
  while (std::getline(lines, line) && !line.empty()) {
    const std::size_t colon = line.find(':');
    request.headers.Add(line.substr(0, colon), line.substr(colon + 1));
  }
  std::getline(lines, request.body, '\0');
  return request;
}

TEST(SigV4Test, SignsAsThePublishedVectors) {
  const char* const given = std::getenv("NOVA_SIGV4_VECTORS");
  const fs::path folder = given != nullptr ? fs::path(given) : SourceFolder() / kVectors;
  if (!fs::is_directory(folder)) {
    std::cerr << "*** AWS' SigV4 vectors are not at " << folder
              << ": name their folder (aws-signing-test-suite/v4 of aws-c-auth) in NOVA_SIGV4_VECTORS ***\n";
    GTEST_SKIP() << "no vectors";
  }
  int checked = 0;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename();
    // Folded header lines are not of HTTP/1.1 any more (RFC 9112 section 5.2), and no request here has any.
    if (name == "get-header-value-multiline") continue;
    SCOPED_TRACE(name);
    const json::object context = json::parse(ReadFile(entry.path() / "context.json")).as_object();
    const json::object& given_credentials = context.at("credentials").as_object();
    const bool adds_token_later = Flag(context, "omit_session_token");
    const Credentials credentials{
        .access_key_id = Text(given_credentials, "access_key_id"),
        .secret_access_key = Secret<>(Text(given_credentials, "secret_access_key")),
        .session_token = Secret<>(adds_token_later ? std::string() : Text(given_credentials, "token"))};
    const SigningScope scope{.region = Text(context, "region"), .service = Text(context, "service")};
    const WallTime now = TimeOf(Text(context, "timestamp"));
    const PathForm form = Flag(context, "normalize") ? PathForm::kNormalized : PathForm::kAsItIs;
    http::Request request = ParseRequest(ReadFile(entry.path() / "request.txt"));
    const std::string expected = ReadFile(entry.path() / "header-canonical-request.txt");
    if (Flag(context, "sign_body"))
      request.headers.Add("X-Amz-Content-Sha256", expected.substr(expected.rfind('\n') + 1));

    http::Request dated = request;
    dated.headers.Add("X-Amz-Date", "20150830T123600Z");
    if (!credentials.session_token.empty())
      dated.headers.Add("X-Amz-Security-Token", credentials.session_token.Expose());
    const std::string canonical = CanonicalRequest(dated, form);
    EXPECT_EQ(canonical, expected);
    EXPECT_EQ(StringToSign(canonical, scope, now), ReadFile(entry.path() / "header-string-to-sign.txt"));

    Sign(request, credentials, scope, now, form);
    const std::string authorization = HeaderOf(request, "Authorization");
    EXPECT_TRUE(authorization.ends_with("Signature=" + ReadFile(entry.path() / "header-signature.txt")))
        << authorization;
    EXPECT_NE(ReadFile(entry.path() / "header-signed-request.txt").find("Authorization:" + authorization),
              std::string::npos);
    ++checked;
  }
  std::cerr << "    " << checked << " vectors\n";
  EXPECT_GE(checked, 30);
}

// --- botocore, which signs for most of those who speak to AWS. ---

constexpr int kRandomRequests = 5000;

class RandomRequests {
 public:
  explicit RandomRequests(unsigned seed) : random_(seed) {}

  std::size_t Below(std::size_t end) { return std::uniform_int_distribution<std::size_t>(0, end - 1)(random_); }
  std::string Text(std::string_view alphabet, std::size_t size_max) {
    std::string text;
    for (std::size_t i = Below(size_max + 1); i > 0; --i) text += alphabet[Below(alphabet.size())];
    return text;
  }

  http::Request Make() {
    http::Request request{.method = Below(2) == 0 ? "POST" : "GET"};
    request.path = "/" + Text("abcXYZ019-._~/%+@:", 24);
    // Escaped and, as no client should, as it is.
    if (Below(3) == 0) request.path += "%C3%A9/" + Text("a./", 8);
    if (Below(3) == 0) request.path += "\xe1\x88\xb4 \xf0\x9f\x94\x91" + Text("./", 4);
    for (std::size_t i = Below(5); i > 0; --i) {
      if (!request.query.empty()) request.query += '&';
      request.query += Text("abAB01-._~", 4) + "k";
      // Without a value, with an empty one, or a real one.
      if (Below(4) != 0) request.query += "=" + Text("abAB01-._~", 6);
      // As a client writes what is not plain.
      if (request.query.contains('=') && Below(3) == 0) request.query += "%2F%20%E1%88%B4";
      // Often the same again.
      if (Below(4) == 0) request.query += "&" + request.query;
    }
    request.headers.Add("Host", "service" + Text("abc", 3) + ".amazonaws.com");
    for (std::size_t i = Below(5); i > 0; --i)
      request.headers.Add("X-Test-" + Text("ABab", 2), Text("ab \t Z9;,=/\"", 20) + "x" + Text(" \t", 2));
    request.body = Text("{}\":, abcdef\n", 200);
    if (Below(3) == 0) request.body += "\xc3\xa9\xe1\x88\xb4";
    return request;
  }

 private:
  std::mt19937_64 random_;
};

TEST(SigV4Test, SignsAsBotocoreDoes) {
  const char* const python = std::getenv("NOVA_TEST_PYTHON");
  if (python == nullptr) {
    std::cerr << "*** NOVA_TEST_PYTHON is not set: ./dev test installs botocore (tests/requirements.txt) and sets it "
                 "***\n";
    GTEST_SKIP() << "no botocore";
  }
  RandomRequests requests(tests::TestSeed());
  const fs::path folder = fs::temp_directory_path() / ("nova-sigv4-" + std::to_string(::getpid()));
  fs::create_directory(folder);
  std::vector<std::string> ours;
  {
    std::ofstream file(folder / "requests");
    for (int i = 0; i < kRandomRequests; ++i) {
      http::Request request = requests.Make();
      json::array headers;
      for (const auto& [name, value] : request.headers) {
        if (name != "Host") headers.push_back({name, value});
      }
      const Credentials credentials{.access_key_id = "AKID" + requests.Text("AB01", 12),
                                    .secret_access_key = Secret<>(requests.Text("abAB01/+", 40) + "k"),
                                    .session_token = Secret<>(requests.Text("abAB01/+=", requests.Below(2) * 200))};
      const SigningScope scope{.region = "eu-central-" + requests.Text("123", 1),
                               .service = "secrets" + requests.Text("ab", 3)};
      const std::int64_t now = 1'700'000'000 + static_cast<std::int64_t>(requests.Below(500'000'000));
      file << json::serialize(json::object{{"method", request.method},
                                           {"path", request.path},
                                           {"query", request.query},
                                           {"host", HeaderOf(request, "Host")},
                                           {"headers", std::move(headers)},
                                           {"body", request.body},
                                           {"key_id", credentials.access_key_id},
                                           {"key", credentials.secret_access_key.Expose()},
                                           {"token", credentials.session_token.Expose()},
                                           {"region", scope.region},
                                           {"service", scope.service},
                                           {"time", now}})
           << "\n";
      Sign(request, credentials, scope, WallTime(std::chrono::seconds(now)));
      ours.push_back(HeaderOf(request, "Authorization"));
    }
  }
  const std::string command = "'" + std::string(python) + "' '" +
                              (SourceFolder() / "nova/secrets/sigv4_botocore.py").string() + "' <'" +
                              (folder / "requests").string() + "' >'" + (folder / "signed").string() + "'";
  ASSERT_EQ(std::system(command.c_str()), 0);
  std::ifstream signed_by_botocore(folder / "signed");
  int differing = 0;
  for (const std::string& authorization : ours) {
    std::string theirs;
    std::getline(signed_by_botocore, theirs);
    if (theirs != authorization && ++differing < 5) ADD_FAILURE() << theirs << "\n" << authorization;
  }
  std::cerr << "    " << ours.size() << " requests, " << differing << " signed otherwise\n";
  EXPECT_EQ(differing, 0);
  fs::remove_all(folder);
}

}  // namespace
}  // namespace nova::secrets
