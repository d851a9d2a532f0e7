// The Lambda runtime API: how a process serves as a Lambda function. It asks for the next event, answers it, and asks
// again. https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
#pragma once

#include <functional>
#include <string>

#include "nova/base/result.h"
#include "nova/http/client.h"
#include "nova/runtime/call.h"
#include "nova/runtime/task.h"

namespace nova::secrets {

struct Invocation {
  std::string request_id = {};
  // JSON, as sent.
  std::string event = {};
};

// Returns the answer, as JSON. An error is reported to Lambda as {"errorType": code, "errorMessage": message}; its
// detail goes to the log only. Lambda's limit of 6 MiB holds for the event and for the answer: what is larger is an
// error of that invocation. The call ends at the invocation's deadline.
using LambdaHandler = std::function<runtime::Task<std::string>(runtime::Call&, const Invocation&)>;

// Serves until `call` ends. `runtime_api`: host:port, from AWS_LAMBDA_RUNTIME_API. Of `http` the body limit must be
// above 6 MiB; the question for the next event, which may take hours, waits beyond the timeout of its dependency. An
// answer that cannot be handed over is tried again within the policy, then logged, and the next event is asked for.
// Errors: INVALID_ARGUMENT for an address that is none; UNAVAILABLE if the runtime API cannot be reached, gives no
// event or has failed for good; RESOURCE_EXHAUSTED for an event over the limit of `http`; why the call ended.
runtime::Task<void> ServeLambda(runtime::Call& call, const http::Client& http, std::string runtime_api,
                                LambdaHandler handler);

// Tells Lambda that the function cannot start, and why. Errors: as above.
runtime::Task<void> ReportInitError(runtime::Call& call, const http::Client& http, std::string runtime_api,
                                    Error error);

}  // namespace nova::secrets
