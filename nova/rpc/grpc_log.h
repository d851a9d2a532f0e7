// gRPC's and Protobuf's own logs as records of ours (nova/telemetry/log.h): left alone, it writes lines of another form
// to stderr.
#pragma once

namespace nova::rpc {

// For the whole process; call it before anything of gRPC is used. What gRPC calls an error is a warning here, since
// any peer can provoke one with a broken handshake; how such a thing ends for us is told by whoever asked for it.
void LogGrpcThroughTelemetry();

}  // namespace nova::rpc
