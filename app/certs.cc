// `nova certs`: the certificates of this machine, from their making to what each process has in memory.
#include <algorithm>
#include <boost/json.hpp>
#include <cstdio>
#include <filesystem>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <unistd.h>
#include <vector>

#include "app/command.h"
#include "app/text.h"
#include "app/topology.h"
#include "local/certificates.h"
#include "local/certificates_in_use.h"
#include "local/data_dir.h"
#include "local/rotation.h"
#include "local/stack.h"
#include "nova/base/timestamp.h"
#include "nova/telemetry/log.h"
#include "nova/tls/authority.h"
#include "nova/tls/certificate.h"

namespace nova::app {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;
using std::chrono::seconds;

constexpr std::string_view kActions = "init, issue, rotate, show or verify";
// Of a serial number, for people to compare; --json has all of it.
constexpr std::size_t kSerialDigitsShown = 8;

bool Contains(const std::vector<std::string>& names, const std::string& name) {
  return std::ranges::find(names, name) != names.end();
}

// "89 d", "ended".
std::string LeftText(WallTime end, WallTime now) { return end - now < seconds(1) ? "ended" : SpanText(end - now); }

std::string ShortSerial(const std::string& serial) { return serial.substr(0, kSerialDigitsShown); }

// "CN=Nova development CA 1234" is mostly known.
std::string ShortName(std::string_view name) {
  if (name.starts_with("CN=")) name.remove_prefix(3);
  return std::string(name);
}

std::string ShortNames(const std::vector<tls::AuthorityInfo>& authorities) {
  std::vector<std::string> names;
  for (const tls::AuthorityInfo& authority : authorities) names.push_back(ShortName(authority.subject));
  return names.empty() ? "-" : fmt::format("{}", fmt::join(names, ", "));
}

json::array ToJson(const std::vector<tls::AuthorityInfo>& authorities) {
  json::array list;
  for (const tls::AuthorityInfo& authority : authorities) {
    list.push_back({{"subject", authority.subject},
                    {"fingerprint", authority.fingerprint},
                    {"not_after", Timestamp(authority.not_after)}});
  }
  return list;
}

json::object ToJson(const tls::CertificateInfo& leaf, const std::vector<tls::AuthorityInfo>& authorities) {
  // One that could not be read has no number, and its times would be an invention.
  const bool known = !leaf.serial.empty();
  return {{"serial", leaf.serial},
          {"not_before", known ? json::value(Timestamp(leaf.not_before)) : json::value()},
          {"not_after", known ? json::value(Timestamp(leaf.not_after)) : json::value()},
          {"issuer", leaf.issuer},
          {"authorities", ToJson(authorities)}};
}

std::string_view RotationName(tls::AuthorityRotation rotation) {
  switch (rotation) {
    case tls::AuthorityRotation::kNextTrusted:
      return "next_trusted";
    case tls::AuthorityRotation::kFormerTrusted:
      return "former_trusted";
    case tls::AuthorityRotation::kNone:
      break;
  }
  return "none";
}

std::string_view RotationText(tls::AuthorityRotation rotation) {
  switch (rotation) {
    case tls::AuthorityRotation::kNextTrusted:
      return "the next one is trusted and signs nothing yet";
    case tls::AuthorityRotation::kFormerTrusted:
      return "the next one signs, the former is still trusted";
    case tls::AuthorityRotation::kNone:
      break;
  }
  return "the former one is withdrawn, not every set has followed yet";
}

std::string ViewText(const local::CertificatesView& view, WallTime now) {
  std::string text;
  if (view.authority) {
    const auto& [signer, rotation, under_way] = *view.authority;
    text += fmt::format("authority  {}, until {} ({})\n", ShortName(signer.subject), Timestamp(signer.not_after),
                        LeftText(signer.not_after, now));
    if (under_way)
      text += fmt::format("           its replacement is under way: {}; `nova certs rotate --ca` goes on with it\n",
                          RotationText(rotation));
  } else {
    text += fmt::format("authority  {}\n", view.authority_problem);
  }
  text += "\n";
  std::vector<std::vector<std::string>> sets{{"ON DISK", "UNTIL", "LEFT", "SERIAL", "ISSUER", "TRUSTS"}};
  std::string problems;
  for (const auto& [principal, on_disk] : view.sets) {
    const tls::CertificateInfo& leaf = on_disk.leaf;
    if (!on_disk.problem.empty()) problems += fmt::format("{}: {}\n", principal, on_disk.problem);
    if (leaf.serial.empty()) {
      sets.push_back({principal, "-", "-", "-", "-", "-"});
      continue;
    }
    sets.push_back({principal, Timestamp(leaf.not_after), LeftText(leaf.not_after, now), ShortSerial(leaf.serial),
                    ShortName(leaf.issuer), ShortNames(on_disk.authorities)});
  }
  text += view.sets.empty() ? "no certificate is issued yet: `nova certs issue` does, and `nova up`\n" : Table(sets);
  if (!problems.empty()) text += "\n" + problems;
  if (!view.running) return text + fmt::format("\nnothing runs on {}\n", view.data_dir.string());
  std::vector<std::vector<std::string>> processes{{"IN MEMORY", "PID", "SIDE", "UNTIL", "SERIAL", "TRUSTS", "STATE"}};
  problems.clear();
  for (const auto& [seen, current] : view.processes) {
    const std::string& name = seen.component.name;
    const std::string pid = seen.component.pid == 0 ? "-" : std::to_string(seen.component.pid);
    if (!seen.problem.empty()) {
      processes.push_back({name, pid, "-", "-", "-", "-", "unknown"});
      problems += fmt::format("{}: {}\n", name, seen.problem);
    }
    for (const tls::CertificateInUse& certificate : seen.certificates) {
      processes.push_back({name, pid, certificate.side, Timestamp(certificate.leaf.not_after),
                           ShortSerial(certificate.leaf.serial), ShortNames(certificate.authorities),
                           current ? "current" : "stale"});
    }
  }
  text += "\n" + Table(processes);
  if (!problems.empty()) text += "\n" + problems;
  return text;
}

json::object ViewJson(const local::CertificatesView& view) {
  json::value authority;
  if (view.authority) {
    authority = json::object{{"subject", view.authority->signer.subject},
                             {"fingerprint", view.authority->signer.fingerprint},
                             {"not_after", Timestamp(view.authority->signer.not_after)},
                             {"rotation", RotationName(view.authority->rotation)},
                             {"under_way", view.authority->under_way}};
  }
  json::array sets;
  for (const auto& [principal, on_disk] : view.sets) {
    json::object set{{"principal", principal}, {"directory", on_disk.folder.string()}, {"problem", on_disk.problem}};
    for (auto& [key, value] : ToJson(on_disk.leaf, on_disk.authorities)) set[key] = value;
    sets.push_back(std::move(set));
  }
  json::array processes;
  for (const auto& [seen, current] : view.processes) {
    json::array certificates;
    for (const tls::CertificateInUse& certificate : seen.certificates) {
      json::object entry{{"side", certificate.side}, {"principal", certificate.leaf.principal}};
      for (auto& [key, value] : ToJson(certificate.leaf, certificate.authorities)) entry[key] = value;
      certificates.push_back(std::move(entry));
    }
    processes.push_back({{"name", seen.component.name},
                         {"pid", seen.component.pid},
                         {"current", current},
                         {"problem", seen.problem},
                         {"certificates", std::move(certificates)}});
  }
  return {{"data_dir", view.data_dir.string()}, {"running", view.running},
          {"authority", std::move(authority)},  {"authority_problem", view.authority_problem},
          {"certificates", std::move(sets)},    {"processes", std::move(processes)}};
}

class CertsVerb final : public Verb {
 public:
  void Bind(config::Config& config) override {
    // Before the action, so that it may also follow them.
    config.Field("certs.json", json_, {.help = "print JSON", .flag = "json"});
    local::Bind(config, folder_);
    config.Positional("action", action_, {.help = std::string(kActions), .required = true});
    // Without an action (help, and the list of known variables) all are shown.
    const auto is = [this](std::initializer_list<std::string_view> actions) {
      return action_.empty() || std::ranges::find(actions, action_) != actions.end();
    };
    if (is({"init", "issue"}))
      config.Field("certs.ca", ca_,
                   {.help = "init, issue: directory of the development CA, for one machine alone (in a cluster "
                            "cert-manager signs); default the data folder's",
                    .flag = "ca"});
    if (is({"issue", "rotate", "verify"}))
      config.Positional("principal", subject_,
                        {.help = "issue: whose certificate; rotate: whose, separated by commas, default all; "
                                 "verify: whose, or a directory with tls.crt, tls.key and ca.crt, default all"});
    if (is({"issue"})) {
      config.Field("certs.out", out_, {.help = "issue: directory; default the principal's", .flag = "out"});
      config.Field("certs.dns", dns_, {.help = "issue: more DNS names, separated by commas", .flag = "dns"});
      config.Field("certs.ip", ips_, {.help = "issue: more IP addresses, separated by commas", .flag = "ip"});
    }
    if (is({"issue", "rotate"}))
      config.Field("certs.lifetime", lifetime_,
                   {.help = "issue, rotate: of a leaf; default that of the running stack, or 90 days",
                    .flag = "lifetime",
                    .min = seconds(1),
                    .max = std::chrono::days(3650)});
    if (is({"rotate"})) {
      config.Field("certs.rotate_ca", rotate_ca_, {.help = "rotate: the authority, too, in three steps", .flag = "ca"});
      config.Field("certs.take_up_limit", take_up_limit_,
                   {.help = "rotate: how long all processes may take to have what is new in memory, for each step",
                    .flag = "take-up-limit",
                    .min = std::chrono::milliseconds(100),
                    .max = std::chrono::hours(1)});
    }
  }

  Result<ExitCode> Run() override {
    telemetry::InitLogging(
        {.level = telemetry::Level::kWarn, .service = "certs", .format = telemetry::LogFormat::kText});
    if (action_ == "init") return Init();
    if (action_ == "issue") return Issue();
    if (action_ == "rotate") return Rotate();
    if (action_ == "show") return Show();
    if (action_ == "verify") return Verify();
    return InvalidArgument(fmt::format("there is no `nova certs {}`; use {}", action_, kActions));
  }

 private:
  Result<ExitCode> Init();
  Result<ExitCode> Issue();
  Result<ExitCode> Rotate();
  Result<ExitCode> Show();
  Result<ExitCode> Verify();

  // What is known of the data folder.
  Result<local::RotationConfig> Folder() const {
    local::RotationConfig config;
    NOVA_TRY(config.data_dir, folder_.Path());
    config.principals = LocalTopology(kPortBaseDefault).principals;
    config.lifetime = lifetime_;
    config.take_up_limit = take_up_limit_;
    if (isatty(STDERR_FILENO) != 0)
      config.progress = [](std::string_view what) {
        std::fprintf(stderr, "  %.*s\n", static_cast<int>(what.size()), what.data());
      };
    return config;
  }
  void Print(const json::object& object, std::string_view text) const {
    const std::string line = json_ ? json::serialize(object) + "\n" : std::string(text);
    std::fputs(line.c_str(), stdout);
  }

  bool json_ = false;
  local::DataDirConfig folder_;
  std::string action_;
  std::string subject_;
  std::string ca_;
  std::string out_;
  std::vector<std::string> dns_;
  std::vector<std::string> ips_;
  seconds lifetime_{0};
  bool rotate_ca_ = false;
  std::chrono::milliseconds take_up_limit_ = local::RotationConfig::kTakeUpLimit;
};

Result<ExitCode> CertsVerb::Init() {
  fs::path directory = ca_;
  std::string already = "; take another directory with --ca";
  std::optional<local::DataDir> folder;
  if (ca_.empty()) {
    NOVA_TRY(const auto root, folder_.Path());
    directory = local::Layout{.root = root}.authority();
    already = "; `nova certs rotate --ca` replaces it";
  }
  std::error_code ignored;
  for (const char* file : {"ca.crt", "ca.key"}) {
    if (fs::exists(directory / file, ignored))
      return AlreadyExists("there is a development CA in " + directory.string() + already);
  }
  if (ca_.empty()) {
    // Its folder becomes one that `nova up` takes for its own.
    NOVA_TRY(folder, local::DataDir::Open(directory.parent_path(), {.port_base = kPortBaseDefault}));
  }
  NOVA_TRY(const auto authority, tls::Authority::Create(directory, Clock::System()));
  NOVA_TRY(const auto set, tls::ValidateAuthorities(authority.certificate_pem(),
                                                    {.path = directory / "ca.crt", .variable = {}}, Clock::System()));
  const tls::AuthorityInfo& info = set.authorities.front();
  Print({{"directory", directory.string()},
         {"subject", info.subject},
         {"fingerprint", info.fingerprint},
         {"not_after", Timestamp(info.not_after)}},
        fmt::format("{}: {}, until {}\nFor development on one machine: its key lies in a plain file. In a cluster "
                    "cert-manager signs.\n",
                    directory.string(), ShortName(info.subject), Timestamp(info.not_after)));
  return kDone;
}

Result<ExitCode> CertsVerb::Issue() {
  if (subject_.empty()) return InvalidArgument("<principal> is missing: nova certs issue <principal>");
  if (out_.empty() && !(ca_.empty() && dns_.empty() && ips_.empty()))
    return InvalidArgument(
        "--out is missing: the data folder's own certificates have its authority and the names that `nova up` gives "
        "them; one with --ca, --dns or --ip goes elsewhere");
  NOVA_TRY(const auto folder, Folder());
  if (out_.empty()) {
    NOVA_TRY(const auto set, local::IssueLeaf(folder, subject_));
    out_ = set.string();
  } else {
    if (!tls::IsPrincipal(subject_))
      return InvalidArgument("'" + subject_ + "' is no principal: use lower-case letters, digits and hyphens");
    const fs::path ca = ca_.empty() ? local::Layout{.root = folder.data_dir}.authority() : fs::path(ca_);
    auto loaded = tls::Authority::Load(ca, Clock::System());
    if (!loaded && loaded.error().code() == Code::kNotFound)
      return NotFound(loaded.error().message() + ": make one with `nova certs init`, or name another with --ca");
    NOVA_TRY(tls::Authority authority, std::move(loaded));
    NOVA_TRY(authority.Issue({.principal = subject_,
                              .dns_extra = dns_,
                              .ips_extra = ips_,
                              .lifetime = lifetime_ == seconds(0) ? local::Certificates::kLifetimeDefault : lifetime_,
                              .owner = {}},
                             out_));
  }
  const local::CertificateOnDisk issued = local::ReadFromDisk(out_);
  if (!issued.problem.empty()) return Internal(issued.problem);
  json::object object{{"principal", subject_}, {"directory", out_}};
  for (auto& [key, value] : ToJson(issued.leaf, issued.authorities)) object[key] = value;
  Print(object, fmt::format("{}: tls.crt, tls.key, ca.crt of {}, until {}, signed by {}\n", out_, subject_,
                            Timestamp(issued.leaf.not_after), ShortName(issued.leaf.issuer)));
  return kDone;
}

Result<ExitCode> CertsVerb::Rotate() {
  std::vector<std::string> principals;
  for (std::size_t begin = 0; begin < subject_.size();) {
    const std::size_t end = std::min(subject_.find(',', begin), subject_.size());
    if (end > begin) principals.push_back(subject_.substr(begin, end - begin));
    begin = end + 1;
  }
  if (subject_ == "all") principals.clear();
  if (rotate_ca_ && !principals.empty())
    return InvalidArgument("--ca replaces the certificate of everyone; leave out '" + subject_ + "'");
  NOVA_TRY(const auto folder, Folder());
  const SteadyTime began = Clock::System().Now();
  NOVA_TRY(const local::RotationReport report,
           rotate_ca_ ? local::RotateAuthority(folder) : local::RotateLeaves(folder, principals));
  const double took = std::chrono::duration<double>(Clock::System().Now() - began).count();
  std::string text =
      rotate_ca_ ? (report.continued ? "an interrupted replacement of the authority is finished, and it is replaced, "
                                     : "the authority is replaced, ")
                 : std::string();
  text += fmt::format("{} {} new", report.principals.size(),
                      report.principals.size() == 1 ? "certificate is" : "certificates are");
  text += report.live ? fmt::format("; every process has taken them up ({:.1f} s)\n", took) : "; no process runs\n";
  json::array names;
  for (const std::string& principal : report.principals) names.emplace_back(principal);
  Print({{"principals", std::move(names)},
         {"authority_replaced", rotate_ca_},
         {"continued", report.continued},
         {"live", report.live},
         {"seconds", took}},
        text);
  return kDone;
}

Result<ExitCode> CertsVerb::Show() {
  NOVA_TRY(const auto folder, Folder());
  NOVA_TRY(const auto view, local::ViewCertificates(folder));
  Print(ViewJson(view), ViewText(view, Clock::System().WallNow()));
  return kDone;
}

Result<ExitCode> CertsVerb::Verify() {
  struct Subject {
    std::string name;
    fs::path directory;
    // Who the certificate must name; empty: anybody.
    std::string principal;
    std::string remedy;
  };
  std::vector<Subject> subjects;
  std::error_code ignored;
  const bool names_directory = subject_.find('/') != std::string::npos || subject_ == "." || subject_ == "..";
  if (names_directory) {
    if (!fs::is_directory(subject_, ignored))
      return NotFound("there is no directory " + subject_ + ": name one that holds tls.crt, tls.key and ca.crt");
    subjects.push_back({.name = subject_, .directory = subject_, .principal = {}, .remedy = {}});
  } else {
    NOVA_TRY(const auto folder, Folder());
    NOVA_TRY(const auto certificates, local::CertificatesOf(folder));
    if (!subject_.empty() && subject_ != "all") NOVA_TRY(certificates.CheckPrincipal(subject_));
    const std::vector<std::string> issued = certificates.Issued();
    for (const std::string& principal : certificates.principals()) {
      const bool meant = subject_.empty() || subject_ == "all" ? Contains(issued, principal) : principal == subject_;
      if (meant)
        subjects.push_back({.name = principal,
                            .directory = certificates.FolderOf(principal),
                            .principal = principal,
                            .remedy = fmt::format(" (`nova certs rotate {}` issues it anew)", principal)});
    }
    if (subjects.empty())
      return NotFound("there is no certificate in " + folder.data_dir.string() +
                      " yet: issue one with `nova certs issue`, or start `nova up`");
  }
  const WallTime now = Clock::System().WallNow();
  bool all_good = true;
  json::array list;
  std::string text;
  for (const Subject& subject : subjects) {
    const local::CertificateOnDisk set = local::ReadFromDisk(subject.directory);
    std::string problem = set.problem;
    if (problem.empty() && !subject.principal.empty() && set.leaf.principal != subject.principal)
      problem = fmt::format("{}: it is the certificate of {}", local::FilesOf(subject.directory).certificate.path,
                            set.leaf.principal);
    // The minute of skew is this machine's allowance for its own clock; a peer grants none.
    if (problem.empty() && set.leaf.not_after <= now)
      problem = fmt::format("{}: the certificate expired at {}", local::FilesOf(subject.directory).certificate.path,
                            Timestamp(set.leaf.not_after));
    if (!problem.empty()) problem += subject.remedy;
    all_good = all_good && problem.empty();
    text += problem.empty() ? fmt::format("ok   {}: {}, until {} ({}), signed by {}\n", subject.name,
                                          set.leaf.principal, Timestamp(set.leaf.not_after),
                                          LeftText(set.leaf.not_after, now), ShortName(set.leaf.issuer))
                            : fmt::format("BAD  {}: {}\n", subject.name, problem);
    json::object entry{{"directory", subject.directory.string()},
                       {"principal", set.leaf.principal},
                       {"ok", problem.empty()},
                       {"problem", problem}};
    for (auto& [key, value] : ToJson(set.leaf, set.authorities)) entry[key] = value;
    list.push_back(std::move(entry));
  }
  Print({{"ok", all_good}, {"sets", std::move(list)}}, text);
  return all_good ? kDone : kCheckFailed;
}

}  // namespace

std::unique_ptr<Verb> MakeCerts() { return std::make_unique<CertsVerb>(); }

}  // namespace nova::app
