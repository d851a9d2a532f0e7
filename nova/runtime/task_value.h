// What a task yields, for templates that take work and hand its outcome on.
#pragma once

#include <type_traits>

#include "nova/runtime/task.h"

namespace nova::runtime {

namespace internal {

template <class T>
struct TaskValue;
template <class T>
struct TaskValue<Task<T>> {
  using type = T;
};

}  // namespace internal

// T, where calling F with Args gives a Task<T>.
template <class F, class... Args>
using TaskValueOf = typename internal::TaskValue<std::invoke_result_t<F&, Args...>>::type;

}  // namespace nova::runtime
