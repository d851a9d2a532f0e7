#include "nova/rpc/policy.h"

#include <algorithm>
#include <google/protobuf/descriptor.h>

#include "api/rpc/v1/options.pb.h"

namespace nova::rpc {
namespace {

namespace pb = google::protobuf;

Result<const pb::ServiceDescriptor*> FindService(std::string_view service) {
  const auto* const found = pb::DescriptorPool::generated_pool()->FindServiceByName(std::string(service));
  if (found == nullptr) return NotFound("service " + std::string(service) + " is not linked into this program");
  return found;
}

MethodKind KindOf(const pb::MethodDescriptor& method) {
  if (method.client_streaming()) return method.server_streaming() ? MethodKind::kBidiStream : MethodKind::kClientStream;
  return method.server_streaming() ? MethodKind::kServerStream : MethodKind::kUnary;
}

Error Undeclared(const pb::MethodDescriptor& method, const char* field) {
  return FailedPrecondition("method " + method.full_name() + " declares no " + field +
                            ": set it in its option (nova.rpc.v1.policy)");
}

}  // namespace

bool MethodPolicy::Allows(std::string_view peer) const {
  if (peer.empty()) return false;
  return any_peer || std::ranges::find(allowed_peers, peer) != allowed_peers.end();
}

Result<MethodPolicy> LoadPolicy(std::string_view service_name, std::string_view method_name) {
  NOVA_TRY(const auto* const service, FindService(service_name));
  const auto* const method = service->FindMethodByName(std::string(method_name));
  if (method == nullptr)
    return NotFound("service " + std::string(service_name) + " has no method " + std::string(method_name));
  const v1::MethodPolicy& declared = method->options().GetExtension(v1::policy);
  if (declared.timeout_ms() == 0) return Undeclared(*method, "timeout_ms");
  if (declared.idempotency() == v1::IDEMPOTENCY_UNSPECIFIED) return Undeclared(*method, "idempotency");
  if (declared.priority() == v1::PRIORITY_UNSPECIFIED) return Undeclared(*method, "priority");
  if (declared.allowed_peers().empty()) return Undeclared(*method, "allowed_peers");
  if (declared.caller() == v1::CALLER_RULE_UNSPECIFIED) return Undeclared(*method, "caller");

  MethodPolicy policy;
  policy.service = service->full_name();
  policy.name = method->name();
  policy.path = "/" + service->full_name() + "/" + method->name();
  policy.kind = KindOf(*method);
  policy.timeout = std::chrono::milliseconds(declared.timeout_ms());
  policy.idempotency = declared.idempotency() == v1::IDEMPOTENCY_SAFE    ? Idempotency::kSafe
                       : declared.idempotency() == v1::IDEMPOTENCY_KEYED ? Idempotency::kKeyed
                                                                         : Idempotency::kNone;
  policy.priority = static_cast<Priority>(declared.priority());
  policy.caller = declared.caller() == v1::CALLER_RULE_REQUIRED   ? CallerRule::kRequired
                  : declared.caller() == v1::CALLER_RULE_OPTIONAL ? CallerRule::kOptional
                                                                  : CallerRule::kNone;
  for (const std::string& peer : declared.allowed_peers()) {
    if (peer == "*") policy.any_peer = true;
    policy.allowed_peers.push_back(peer);
  }
  return policy;
}

Result<std::vector<std::string>> MethodNames(std::string_view service_name) {
  NOVA_TRY(const auto* const service, FindService(service_name));
  std::vector<std::string> names;
  for (int i = 0; i < service->method_count(); ++i) names.push_back(service->method(i)->name());
  return names;
}

}  // namespace nova::rpc
