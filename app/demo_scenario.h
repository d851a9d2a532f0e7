// What an app does with this backend, step by step.
#pragma once

#include "app/demo_stage.h"

namespace nova::app {

// Makes an account of its own, and uses and deletes it. Errors: why it could not go on; the steps tell what failed.
runtime::Task<void> RunScenario(runtime::Call& call, Stage& stage, rpc::Client& identity, rpc::Client& user);

}  // namespace nova::app
