#include "nova/tls/report.h"

#include <boost/json.hpp>
#include <ctime>
#include <system_error>
#include <utility>

#include "nova/tls/text.h"

namespace nova::tls {
namespace {

namespace json = boost::json;

constexpr std::string_view kKey = "certificates";

json::value ToJson(const CertificateInUse& certificate) {
  json::array authorities;
  for (const AuthorityInfo& authority : certificate.authorities) {
    authorities.push_back({{"subject", authority.subject},
                           {"fingerprint", authority.fingerprint},
                           {"not_after", Timestamp(authority.not_after)}});
  }
  const CertificateInfo& leaf = certificate.leaf;
  return json::object{{"side", certificate.side},
                      {"principal", leaf.principal},
                      {"serial", leaf.serial},
                      {"not_before", Timestamp(leaf.not_before)},
                      {"not_after", Timestamp(leaf.not_after)},
                      {"issuer", leaf.issuer},
                      {"authorities", std::move(authorities)}};
}

Error Malformed(std::string_view what) { return InvalidArgument(Concat({"certificates: ", what})); }

Result<std::string> Text(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  if (value == nullptr || !value->is_string()) return Malformed(Concat({"no text '", key, "'"}));
  return std::string(value->get_string());
}

Result<WallTime> Time(const json::object& object, std::string_view key) {
  NOVA_TRY(const std::string text, Text(object, key));
  std::tm parts{};
  const char* const end = strptime(text.c_str(), "%Y-%m-%dT%H:%M:%SZ", &parts);
  if (end == nullptr || *end != '\0') return Malformed(Concat({"no time in '", key, "'"}));
  return std::chrono::system_clock::from_time_t(timegm(&parts));
}

// The objects of an array. Errors: INVALID_ARGUMENT.
Result<std::vector<const json::object*>> Objects(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  if (value == nullptr || !value->is_array()) return Malformed(Concat({"no list '", key, "'"}));
  std::vector<const json::object*> objects;
  for (const json::value& entry : value->get_array()) {
    if (!entry.is_object()) return Malformed(Concat({"no objects in '", key, "'"}));
    objects.push_back(&entry.get_object());
  }
  return objects;
}

}  // namespace

CertificateInUse Describe(std::string_view side, const IdentityPublisher& publisher) {
  CertificateInUse certificate{
      .side = std::string(side), .leaf = publisher.info(), .authorities = publisher.authorities()};
  certificate.leaf.dns_names.clear();
  certificate.leaf.ip_addresses.clear();
  return certificate;
}

std::string AddCertificates(std::string object, const std::vector<CertificateInUse>& certificates) {
  std::error_code error;
  json::value value = json::parse(object, error);
  if (error || !value.is_object()) return object;
  json::array list;
  for (const CertificateInUse& certificate : certificates) list.push_back(ToJson(certificate));
  value.get_object()[kKey] = std::move(list);
  return json::serialize(value);
}

Result<std::vector<CertificateInUse>> CertificatesOf(std::string_view object) {
  std::error_code error;
  const json::value value = json::parse(object, error);
  if (error || !value.is_object()) return Malformed("not a JSON object");
  NOVA_TRY(const auto entries, Objects(value.get_object(), kKey));
  std::vector<CertificateInUse> certificates;
  for (const json::object* entry : entries) {
    CertificateInUse& certificate = certificates.emplace_back();
    NOVA_TRY(certificate.side, Text(*entry, "side"));
    NOVA_TRY(certificate.leaf.principal, Text(*entry, "principal"));
    NOVA_TRY(certificate.leaf.serial, Text(*entry, "serial"));
    NOVA_TRY(certificate.leaf.not_before, Time(*entry, "not_before"));
    NOVA_TRY(certificate.leaf.not_after, Time(*entry, "not_after"));
    NOVA_TRY(certificate.leaf.issuer, Text(*entry, "issuer"));
    NOVA_TRY(const auto authorities, Objects(*entry, "authorities"));
    for (const json::object* authority : authorities) {
      AuthorityInfo& info = certificate.authorities.emplace_back();
      NOVA_TRY(info.subject, Text(*authority, "subject"));
      NOVA_TRY(info.fingerprint, Text(*authority, "fingerprint"));
      NOVA_TRY(info.not_after, Time(*authority, "not_after"));
    }
  }
  return certificates;
}

}  // namespace nova::tls
