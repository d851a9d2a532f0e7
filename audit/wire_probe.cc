#include "audit/wire_probe.h"

#include <boost/asio/ip/address.hpp>
#include <map>

#include "audit/capture.h"
#include "audit/pace.h"
#include "audit/tcp.h"
#include "audit/tls_records.h"
#include "audit/verdict.h"

namespace nova::audit {
namespace {

bool IsLoopback(const std::string& host) {
  boost::system::error_code named;
  const auto address = boost::asio::ip::make_address(host, named);
  return named ? host == "localhost" : address.is_loopback();
}

std::string Describe(const TlsRecords::Port& seen) {
  std::string text = std::to_string(seen.bytes) + " bytes, " + std::to_string(seen.records) + " records, " +
                     std::to_string(seen.client_hellos) + " ClientHellos, " + std::to_string(seen.connections) +
                     " connections";
  if (seen.joined > 0) text += " (" + std::to_string(seen.joined) + " older than the capture)";
  if (seen.skipped > 0)
    text += ", " + std::to_string(seen.skipped) + " bytes of them belong to records that had begun before it";
  return text;
}

}  // namespace

Result<void> WireProbe::Talk() {
  // So that each port has a connection that the capture sees from its first byte on.
  for (const ServiceTarget& service : config_.services) {
    if (auto answered = grpc_.AnswersAudit(service); !answered)
      return Error(answered.error()).WithContext("a call to " + service.name);
  }
  if (auto answered = grpc_.ControlAnswers(); !answered)
    return Error(answered.error()).WithContext("a call to the plaintext control");
  Say(config_, "capturing packets while the demo runs");
  if (auto shown = config_.demo(); !shown) return Error(shown.error()).WithContext("the demo");
  return Ok();
}

Finding WireProbe::EveryByteIsTls() {
  if (config_.services.empty()) return Finding::NotMeasured("no service is known");
  if (!config_.demo) return Finding::NotMeasured("there is no demo to look at");
  std::map<std::string, int> ports;
  std::vector<int> all;
  for (const ServiceTarget& service : config_.services) {
    const auto target = ParseTarget(service.grpc_target);
    if (!target) return Finding::NotMeasured(target.error().message());
    if (!IsLoopback(target->host))
      return Finding::NotMeasured(service.grpc_target + " is not on this machine's loopback, where the capture looks");
    all.push_back(ports[service.name] = target->port);
  }
  const auto control = ParseTarget(grpc_.control_target());
  if (!control) return Finding::NotMeasured(control.error().message());
  all.push_back(control->port);

  TlsRecords records(all);
  const auto capture = Capture::Start(all, [&records](const TcpSegment& segment) { records.Add(segment); });
  if (!capture) return Finding::NotMeasured(capture.error().message());
  const auto talked = Talk();
  const auto packets = (*capture)->Stop();
  if (!talked) return Finding::NotMeasured(talked.error().ToString());
  if (!packets) return Finding::NotMeasured(packets.error().message());
  const TlsRecords::Port plaintext = records.Seen(control->port);
  if (plaintext.broken.empty())
    return Finding::NotMeasured("the instrument sees nothing: the plaintext control did not fail the test (" +
                                Describe(plaintext) + ")");

  std::string notes;
  Finding finding = OnEveryService(config_.services, [&](const ServiceTarget& service) -> Verdict {
    const TlsRecords::Port seen = records.Seen(ports.at(service.name));
    notes += service.name + ": " + Describe(seen) + "; ";
    if (!seen.broken.empty()) return Verdict::Fail(seen.broken);
    if (!seen.undecided.empty()) return Verdict::NotMeasured(seen.undecided);
    if (seen.client_hellos == 0) return Verdict::Fail("no ClientHello was seen");
    return Verdict::Pass();
  });
  if (!finding.note.empty()) finding.note += "; ";
  finding.note +=
      notes + "the plaintext control: " + plaintext.broken + "; " + std::to_string(*packets) + " packets, none lost";
  return finding;
}

}  // namespace nova::audit
