#include "audit/grpc_probe.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/support/client_callback.h>

#include "audit/samples.h"
#include "audit/tcp.h"
#include "nova/health/service.h"
#include "nova/http/client.h"
#include "nova/rpc/client.h"
#include "nova/rpc/codec.h"
#include "nova/rpc/status.h"
#include "nova/tls/authority.h"
#include "nova/tls/certificate.h"

namespace nova::audit {
namespace {

namespace v1 = grpc::health::v1;
using Methods = v1::HealthMethods;
using runtime::Call;
using runtime::Task;
using std::chrono::minutes;
using std::chrono::seconds;
using Status = Row::Status;

// One question to one port.
constexpr Duration kAskLimit = seconds(5);
// A whole series of samples; each sample has the limit of its call besides.
constexpr Duration kSeriesLimit = minutes(5);
// Untimed calls before a series, so that neither end pays for its first.
constexpr int kWarmUps = 5;
constexpr double kP95 = 0.95;
constexpr Duration kHandshakeLimit = std::chrono::milliseconds(10);
constexpr Duration kOverPlaintextLimit = std::chrono::milliseconds(5);

// What a client of plaintext HTTP/2 says first: the connection preface and an empty SETTINGS frame.
constexpr std::string_view kHttp2Preface("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 33);
// Content type "alert" and the major version of every TLS: all that a TLS server may say to somebody who speaks
// something else.
constexpr std::string_view kTlsAlert("\x15\x03", 2);

// A principal that serves nothing.
constexpr std::string_view kNoServer = "operator";

// A private folder for the certificates of an authority that nobody trusts.
class TemporaryFolder {
 public:
  static Result<TemporaryFolder> Make() {
    std::error_code error;
    std::string pattern = (std::filesystem::temp_directory_path(error) / "nova-audit-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) return FailedPrecondition("cannot make a folder " + pattern);
    return TemporaryFolder(pattern);
  }
  TemporaryFolder(TemporaryFolder&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  TemporaryFolder& operator=(TemporaryFolder&&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  explicit TemporaryFolder(std::filesystem::path path) : path_(std::move(path)) {}
  std::filesystem::path path_;
};

Result<tls::CertificateTexts> ForeignCertificate() {
  NOVA_TRY(const TemporaryFolder folder, TemporaryFolder::Make());
  NOVA_TRY(tls::Authority authority, tls::Authority::Create(folder.path() / "ca", Clock::System()));
  const auto leaf = folder.path() / "leaf";
  NOVA_TRY(authority.Issue({.principal = "audit"}, leaf));
  return tls::ReadCertificateFiles({.certificate = {.path = leaf / "tls.crt", .variable = ""},
                                    .key = {.path = leaf / "tls.key", .variable = ""},
                                    .ca = {.path = leaf / "ca.crt", .variable = ""}});
}

// Health Check over a channel of these credentials alone. Returns whatever came of it.
Task<grpc::Status> RawCheck(Call& call, std::shared_ptr<grpc::ChannelCredentials> credentials, std::string target_name,
                            std::string target) {
  grpc::ChannelArguments arguments;
  // As every client of ours: a proxy of the shell would answer in the place of the service.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetSslTargetNameOverride(target_name);
  grpc::GenericStub stub(grpc::CreateCustomChannel(target, credentials, arguments));
  grpc::ByteBuffer request;
  NOVA_CO_TRY(rpc::Encode(v1::HealthCheckRequest(), request));
  grpc::ByteBuffer response;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + call.Remaining());
  const runtime::CancelHook hook(call, [&context](const Error&) { context.TryCancel(); });
  co_return co_await runtime::Await<grpc::Status>([&](runtime::Resolver<grpc::Status> resolve) {
    stub.UnaryCall(&context, Methods::kCheck.path, {}, &request, &response,
                   [resolve](grpc::Status ended) { resolve(std::move(ended)); });
  });
}

rpc::ServerConfig ControlConfig() { return {.address = "127.0.0.1", .port = 0, .drain_limit = seconds(1)}; }

rpc::ServerSecurity ControlSecurity() {
  return {.credentials = tls::MakePlaintextServerCredentials(),
          .stack = {.authorize_peers = false, .verify_token = nullptr}};
}

}  // namespace

std::string RpcServiceName(const std::string& service) {
  std::string type = service;
  if (!type.empty()) type.front() = static_cast<char>(std::toupper(static_cast<unsigned char>(type.front())));
  return "nova." + service + ".v2." + type + "Service";
}

GrpcProbe::GrpcProbe(runtime::Runtime& runtime, const AuditConfig& config)
    : runtime_(runtime),
      config_(config),
      scope_(runtime),
      monitor_(metrics_, {}),
      control_(runtime, metrics_, ControlConfig(), ControlSecurity()) {}

GrpcProbe::~GrpcProbe() {
  control_.Stop();
  // It has no dependency to probe, so there is nothing to wait for.
  (void)scope_.Stop(kAskLimit);
}

Result<std::unique_ptr<GrpcProbe>> GrpcProbe::Create(runtime::Runtime& runtime, const AuditConfig& config) {
  std::unique_ptr<GrpcProbe> probe(new GrpcProbe(runtime, config));
  NOVA_TRY(probe->Start());
  return probe;
}

Result<void> GrpcProbe::Start() {
  NOVA_TRY(publisher_, tls::IdentityPublisher::Create({.files = config_.identity.files(), .usage = tls::Usage::kClient},
                                                      Clock::System(), metrics_));
  identity_.emplace(*publisher_);
  monitor_.Start(scope_);
  control_.Add(health::MakeHealthService(monitor_, {}));
  NOVA_TRY(control_.Start());
  control_target_ = "127.0.0.1:" + std::to_string(control_.port());
  return Ok();
}

Finding GrpcProbe::OnEveryService(const std::function<Verdict(const ServiceTarget&)>& judge) {
  if (config_.services.empty()) return Finding::NotMeasured("no service is known");
  std::size_t passed = 0;
  Status status = Status::kPass;
  std::string notes;
  for (const ServiceTarget& service : config_.services) {
    const Verdict verdict = judge(service);
    if (verdict.status == Status::kPass) {
      ++passed;
      continue;
    }
    // A failure says more than a doubt.
    if (status != Status::kFail) status = verdict.status;
    notes += (notes.empty() ? "" : "; ") + service.name + ": " + verdict.note;
  }
  return {status, std::to_string(passed) + " of " + std::to_string(config_.services.size()), notes};
}

Task<v1::HealthCheckResponse> GrpcProbe::Check(Call& call, const tls::ChannelIdentity& identity, std::string principal,
                                               std::string target, std::string service) {
  rpc::Client client(metrics_, services_,
                     {.principal = std::move(principal), .target = std::move(target), .own_connection = true},
                     identity);
  v1::HealthCheckRequest request;
  request.set_service(std::move(service));
  co_return co_await client.Invoke(call, Methods::kCheck, request);
}

Result<v1::HealthCheckResponse> GrpcProbe::CheckNow(const tls::ChannelIdentity& identity, const std::string& principal,
                                                    const std::string& target, const std::string& service) {
  return runtime_.RunBlocking<v1::HealthCheckResponse>(
      kAskLimit, [&](Call& call) { return Check(call, identity, principal, target, service); });
}

GrpcProbe::Verdict GrpcProbe::JudgeRefusal(const ServiceTarget& service, const Result<std::string>& answer) {
  if (!answer) return {Status::kNotMeasured, answer.error().ToString()};
  if (!answer->empty()) return {Status::kFail, *answer};
  const auto control = CheckNow(*identity_, service.name, service.grpc_target);
  if (!control)
    return {Status::kNotMeasured, "no answer to the audit's certificate either: " + control.error().ToString()};
  return {Status::kPass, {}};
}

Result<std::string> GrpcProbe::AnswerToPlaintext(const std::string& principal, const std::string& target) {
  NOVA_TRY(const HostPort address, ParseTarget(target));
  const auto is_answer = [](std::string_view said) { return !kTlsAlert.starts_with(said.substr(0, kTlsAlert.size())); };
  NOVA_TRY(const Answer answer, runtime_.RunBlocking<Answer>(2 * kAskLimit, [&](Call& call) {
    return Converse(call, address, std::string(kHttp2Preface), kAskLimit, is_answer);
  }));
  if (is_answer(answer.bytes)) return std::string("it answers plaintext HTTP/2");
  if (!answer.closed) return std::string("it keeps a connection that speaks plaintext");
  const auto called = CheckNow(tls::ChannelIdentity::Plaintext(), principal, target);
  if (called) return std::string("it answers a plaintext call");
  // Every other status comes from somebody who read the call.
  if (called.error().code() != Code::kUnavailable) return "it answers a plaintext call: " + called.error().ToString();
  return std::string();
}

Result<std::string> GrpcProbe::AnswerTo(const std::shared_ptr<grpc::ChannelCredentials>& credentials,
                                        const ServiceTarget& service) {
  NOVA_TRY(const grpc::Status status, runtime_.RunBlocking<grpc::Status>(kAskLimit, [&](Call& call) {
    return RawCheck(call, credentials, tls::ServiceDnsName(service.name), service.grpc_target);
  }));
  if (status.ok()) return std::string("it answers");
  // As above.
  if (status.error_code() != grpc::StatusCode::UNAVAILABLE) return "it answers " + rpc::FromStatus(status).ToString();
  return std::string();
}

Finding GrpcProbe::PlaintextRefused() {
  // The instrument is tried first on a port that does speak plaintext: if that seems to refuse, refusals prove nothing.
  const auto control = AnswerToPlaintext("control", control_target_);
  if (!control) return Finding::NotMeasured("the plaintext control: " + control.error().ToString());
  if (control->empty() || !CheckNow(tls::ChannelIdentity::Plaintext(), "control", control_target_))
    return Finding::NotMeasured("the plaintext control was not seen as plaintext");
  return OnEveryService([&](const ServiceTarget& service) {
    return JudgeRefusal(service, AnswerToPlaintext(service.name, service.grpc_target));
  });
}

Finding GrpcProbe::NoCertificateRefused() {
  const auto texts = tls::ReadCertificateFiles(config_.identity.files());
  if (!texts) return Finding::NotMeasured(texts.error().ToString());
  grpc::SslCredentialsOptions options;
  options.pem_root_certs = texts->ca_pem;
  const auto credentials = grpc::SslCredentials(options);
  return OnEveryService(
      [&](const ServiceTarget& service) { return JudgeRefusal(service, AnswerTo(credentials, service)); });
}

Finding GrpcProbe::ForeignAuthorityRefused() {
  const auto texts = tls::ReadCertificateFiles(config_.identity.files());
  if (!texts) return Finding::NotMeasured(texts.error().ToString());
  const auto foreign = ForeignCertificate();
  if (!foreign) return Finding::NotMeasured(foreign.error().ToString());
  grpc::SslCredentialsOptions options;
  options.pem_root_certs = texts->ca_pem;
  options.pem_cert_chain = foreign->chain_pem;
  options.pem_private_key = foreign->key_pem.Expose();
  const auto credentials = grpc::SslCredentials(options);
  return OnEveryService(
      [&](const ServiceTarget& service) { return JudgeRefusal(service, AnswerTo(credentials, service)); });
}

Finding GrpcProbe::WrongNameRefused() {
  return OnEveryService([&](const ServiceTarget& service) {
    const auto called = CheckNow(*identity_, std::string(kNoServer), service.grpc_target);
    Result<std::string> answer = std::string();
    if (called || called.error().code() != Code::kUnavailable)
      answer = "a channel to '" + std::string(kNoServer) + "' accepts it";
    return JudgeRefusal(service, answer);
  });
}

Task<Duration> GrpcProbe::TimeFirstCall(Call& call, const tls::ChannelIdentity& identity, std::string principal,
                                        std::string target) {
  const SteadyTime start = Clock::System().Now();
  rpc::Client client(metrics_, services_,
                     {.principal = std::move(principal), .target = std::move(target), .own_connection = true},
                     identity);
  NOVA_CO_TRY(co_await client.Invoke(call, Methods::kCheck, v1::HealthCheckRequest()));
  // Before the channel is taken down, which nobody waits for.
  co_return Clock::System().Now() - start;
}

Task<GrpcProbe::Handshakes> GrpcProbe::MeasureHandshakes(Call& call) {
  const tls::ChannelIdentity plaintext = tls::ChannelIdentity::Plaintext();
  Handshakes handshakes;
  for (const ServiceTarget& service : config_.services) handshakes.services.push_back({service.name, {}});
  for (int round = -kWarmUps; round < config_.handshake_samples; ++round) {
    for (std::size_t i = 0; i < config_.services.size(); ++i) {
      const ServiceTarget& service = config_.services[i];
      NOVA_CO_TRY(const Duration time, co_await TimeFirstCall(call, *identity_, service.name, service.grpc_target));
      if (round >= 0) handshakes.services[i].samples.push_back(time);
    }
    NOVA_CO_TRY(const Duration time, co_await TimeFirstCall(call, plaintext, "control", control_target_));
    if (round >= 0) handshakes.plaintext.push_back(time);
  }
  co_return handshakes;
}

const GrpcProbe::Handshakes::OfService& GrpcProbe::Handshakes::Slowest() const {
  return *std::ranges::max_element(services, {}, [](const OfService& of) { return Percentile(of.samples, kP95); });
}

const Result<GrpcProbe::Handshakes>& GrpcProbe::MeasuredHandshakes() {
  if (!handshakes_) {
    handshakes_ = config_.services.empty() ? Result<Handshakes>(FailedPrecondition("no service is known"))
                                           : runtime_.RunBlocking<Handshakes>(
                                                 kSeriesLimit, [this](Call& call) { return MeasureHandshakes(call); });
  }
  return *handshakes_;
}

Finding GrpcProbe::HandshakeP95() {
  const auto& measured = MeasuredHandshakes();
  if (!measured) return Finding::NotMeasured(measured.error().ToString());
  const auto& slowest = measured->Slowest();
  const Duration p95 = Percentile(slowest.samples, kP95);
  return Finding::Judge(p95 < kHandshakeLimit, FormatMilliseconds(p95),
                        std::to_string(slowest.samples.size()) + " samples per service; slowest " + slowest.name +
                            ": " + Describe(slowest.samples) + "; " + DescribeLoad());
}

Finding GrpcProbe::HandshakeOverPlaintext() {
  const auto& measured = MeasuredHandshakes();
  if (!measured) return Finding::NotMeasured(measured.error().ToString());
  const auto& slowest = measured->Slowest();
  const Duration over = Percentile(slowest.samples, kP95) - Percentile(measured->plaintext, kP95);
  return Finding::Judge(over < kOverPlaintextLimit, FormatMilliseconds(over),
                        slowest.name + " " + Describe(slowest.samples) + "; plaintext " +
                            Describe(measured->plaintext) + "; " + DescribeLoad());
}

Finding GrpcProbe::ServingAs(bool by_service_name) {
  return OnEveryService([&](const ServiceTarget& service) -> Verdict {
    const auto answer = CheckNow(*identity_, service.name, service.grpc_target,
                                 by_service_name ? RpcServiceName(service.name) : std::string());
    if (!answer) return {Status::kFail, answer.error().ToString()};
    if (answer->status() != v1::HealthCheckResponse::SERVING)
      return {Status::kFail, v1::HealthCheckResponse::ServingStatus_Name(answer->status())};
    return {Status::kPass, {}};
  });
}

Finding GrpcProbe::ProcessServing() { return ServingAs(false); }

Finding GrpcProbe::ServicesServing() { return ServingAs(true); }

Finding GrpcProbe::WatchAnswers() {
  return OnEveryService([&](const ServiceTarget& service) -> Verdict {
    const auto first =
        runtime_.RunBlocking<v1::HealthCheckResponse>(kAskLimit, [&](Call& call) -> Task<v1::HealthCheckResponse> {
          rpc::Client client(metrics_, services_,
                             {.principal = service.name, .target = service.grpc_target, .own_connection = true},
                             *identity_);
          NOVA_CO_TRY(auto stream, client.Open(call, Methods::kWatch));
          v1::HealthCheckRequest request;
          request.set_service(RpcServiceName(service.name));
          NOVA_CO_TRY(co_await stream.Write(call, request));
          NOVA_CO_TRY(co_await stream.WritesDone(call));
          NOVA_CO_TRY(const auto status, co_await stream.Read(call));
          if (!status) {
            NOVA_CO_TRY(co_await stream.Finish(call));
            co_return Internal("the stream ended without a status");
          }
          co_return *status;
        });
    if (!first) return {Status::kFail, first.error().ToString()};
    if (first->status() != v1::HealthCheckResponse::SERVING)
      return {Status::kFail, v1::HealthCheckResponse::ServingStatus_Name(first->status())};
    return {Status::kPass, {}};
  });
}

Finding GrpcProbe::AdminAnswers() {
  const http::Client client(admin_ports_);
  return OnEveryService([&](const ServiceTarget& service) -> Verdict {
    const auto address = ParseTarget(service.admin_target);
    if (!address) return {Status::kNotMeasured, address.error().message()};
    for (const char* path : {"/livez", "/readyz"}) {
      const auto response = runtime_.RunBlocking<http::Response>(
          kAskLimit, [&](Call& call) { return client.Get(call, address->host, address->port, path); });
      if (!response) return {Status::kFail, path + (": " + response.error().ToString())};
      if (response->status != 200) return {Status::kFail, path + (" answers " + std::to_string(response->status))};
    }
    return {Status::kPass, {}};
  });
}

}  // namespace nova::audit
