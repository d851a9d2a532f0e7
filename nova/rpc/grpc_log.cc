#include "nova/rpc/grpc_log.h"

#include <google/protobuf/stubs/logging.h>
#include <grpc/support/log.h>
#include <string>
#include <string_view>

#include "nova/telemetry/log.h"

namespace nova::rpc {
namespace {

void Write(gpr_log_func_args* record) {
  const auto level = record->severity == GPR_LOG_SEVERITY_ERROR ? telemetry::Level::kWarn : telemetry::Level::kDebug;
  if (!telemetry::LogEnabled(level)) return;
  std::string_view file = record->file;
  file.remove_prefix(file.rfind('/') + 1);  // npos + 1 is 0
  telemetry::Log(level, "gRPC", {{"what", record->message}, {"file", file}, {"line", record->line}});
}

// What a malformed message provokes, one record per message at most; any peer can send one.
void WriteProtobuf(google::protobuf::LogLevel severity, const char* file, int line, const std::string& what) {
  const auto level = severity >= google::protobuf::LOGLEVEL_FATAL ? telemetry::Level::kError : telemetry::Level::kDebug;
  telemetry::Log(level, "Protobuf", {{"what", what}, {"file", file}, {"line", line}});
}

}  // namespace

// Newer releases of gRPC and Protobuf log through Abseil and lack these functions: this file is the only one to change
// then.
void LogGrpcThroughTelemetry() {
  gpr_set_log_function(Write);
  google::protobuf::SetLogHandler(WriteProtobuf);
}

}  // namespace nova::rpc
