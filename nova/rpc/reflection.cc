#include "nova/rpc/reflection.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>
#include <set>

#include "api/reflection/v1alpha/reflection.nova.h"

namespace nova::rpc {
namespace {

namespace pb = google::protobuf;
namespace v1alpha = grpc::reflection::v1alpha;
using runtime::Call;
using runtime::Task;
using Methods = v1alpha::ServerReflectionMethods;

const pb::DescriptorPool& Pool() { return *pb::DescriptorPool::generated_pool(); }

void SetNotFound(v1alpha::ServerReflectionResponse& response, const std::string& what) {
  response.mutable_error_response()->set_error_code(static_cast<int>(Code::kNotFound));
  response.mutable_error_response()->set_error_message(what + " is not known here");
}

// The file and everything it imports, each once.
void AppendFile(const pb::FileDescriptor& file, std::set<const pb::FileDescriptor*>& seen,
                v1alpha::FileDescriptorResponse& response) {
  if (!seen.insert(&file).second) return;
  pb::FileDescriptorProto proto;
  file.CopyTo(&proto);
  proto.SerializeToString(response.add_file_descriptor_proto());
  for (int i = 0; i < file.dependency_count(); ++i) AppendFile(*file.dependency(i), seen, response);
}

void SetFile(const pb::FileDescriptor* file, const std::string& asked, v1alpha::ServerReflectionResponse& response) {
  if (file == nullptr) {
    SetNotFound(response, asked);
    return;
  }
  std::set<const pb::FileDescriptor*> seen;
  AppendFile(*file, seen, *response.mutable_file_descriptor_response());
}

void SetExtensionFile(const v1alpha::ExtensionRequest& asked, v1alpha::ServerReflectionResponse& response) {
  const auto* const type = Pool().FindMessageTypeByName(asked.containing_type());
  const auto* const extension =
      type == nullptr ? nullptr : Pool().FindExtensionByNumber(type, asked.extension_number());
  SetFile(extension == nullptr ? nullptr : extension->file(), "the extension", response);
}

void SetExtensionNumbers(const std::string& name, v1alpha::ServerReflectionResponse& response) {
  const auto* const type = Pool().FindMessageTypeByName(name);
  if (type == nullptr) {
    SetNotFound(response, name);
    return;
  }
  std::vector<const pb::FieldDescriptor*> extensions;
  Pool().FindAllExtensions(type, &extensions);
  auto* const answer = response.mutable_all_extension_numbers_response();
  answer->set_base_type_name(name);
  for (const auto* extension : extensions) answer->add_extension_number(extension->number());
}

v1alpha::ServerReflectionResponse Answer(const v1alpha::ServerReflectionRequest& request,
                                         const std::vector<std::string>& services) {
  v1alpha::ServerReflectionResponse response;
  response.set_valid_host(request.host());
  *response.mutable_original_request() = request;
  switch (request.message_request_case()) {
    case v1alpha::ServerReflectionRequest::kListServices:
      for (const std::string& service : services)
        response.mutable_list_services_response()->add_service()->set_name(service);
      break;
    case v1alpha::ServerReflectionRequest::kFileByFilename:
      SetFile(Pool().FindFileByName(request.file_by_filename()), request.file_by_filename(), response);
      break;
    case v1alpha::ServerReflectionRequest::kFileContainingSymbol:
      SetFile(Pool().FindFileContainingSymbol(request.file_containing_symbol()), request.file_containing_symbol(),
              response);
      break;
    case v1alpha::ServerReflectionRequest::kFileContainingExtension:
      SetExtensionFile(request.file_containing_extension(), response);
      break;
    case v1alpha::ServerReflectionRequest::kAllExtensionNumbersOfType:
      SetExtensionNumbers(request.all_extension_numbers_of_type(), response);
      break;
    case v1alpha::ServerReflectionRequest::MESSAGE_REQUEST_NOT_SET:
      response.mutable_error_response()->set_error_code(static_cast<int>(Code::kInvalidArgument));
      response.mutable_error_response()->set_error_message("message_request: one of its fields must be set");
      break;
  }
  return response;
}

}  // namespace

Service MakeReflectionService(std::vector<std::string> services) {
  services.emplace_back(Methods::kService);
  Service service(Methods::kService);
  service.Handle(Methods::kServerReflectionInfo,
                 [services = std::move(services)](Call& call, Reader<v1alpha::ServerReflectionRequest>& reader,
                                                  Writer<v1alpha::ServerReflectionResponse>& writer) -> Task<void> {
                   for (;;) {
                     NOVA_CO_TRY(const auto request, co_await reader.Read(call));
                     if (!request) co_return Ok();
                     const auto response = Answer(*request, services);
                     NOVA_CO_TRY(co_await writer.Write(call, response));
                   }
                 });
  return service;
}

}  // namespace nova::rpc
