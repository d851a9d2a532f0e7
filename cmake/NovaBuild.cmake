# Compiler, warnings, sanitizers and precompiled headers: one place for every target.

# g++ 12 miscompiles coroutines (temporaries in the full expression of a co_await are destroyed twice).
if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "Clang" OR CMAKE_CXX_COMPILER_VERSION VERSION_LESS 19)
  message(FATAL_ERROR "Nova needs clang 19 or newer; ./dev build chooses it")
endif()

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE RelWithDebInfo)
endif()
set(CMAKE_CXX_STANDARD 23)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_CXX_SCAN_FOR_MODULES OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
# Everything ends in executables; one setting for all, so that all can share the precompiled headers.
add_compile_options(-fPIE)
add_link_options(-pie)
# Line tables are enough for stack traces, and link in a third of the time that full debug information takes.
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O2 -gline-tables-only")
add_link_options(-fuse-ld=lld-19)

set(NOVA_SANITIZE "" CACHE STRING "address (with undefined behaviour), thread, or empty")
set_property(CACHE NOVA_SANITIZE PROPERTY STRINGS "" address thread)
if(NOVA_SANITIZE STREQUAL "address")
  add_compile_options(-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -O1)
  add_link_options(-fsanitize=address,undefined)
elseif(NOVA_SANITIZE STREQUAL "thread")
  # Asio's fenced blocks are stand-alone fences, which ThreadSanitizer cannot follow.
  add_compile_options(-fsanitize=thread -fno-omit-frame-pointer -O1)
  add_compile_definitions(BOOST_ASIO_DISABLE_FENCED_BLOCK)
  add_link_options(-fsanitize=thread)
elseif(NOVA_SANITIZE)
  message(FATAL_ERROR "NOVA_SANITIZE=${NOVA_SANITIZE}: use address, thread, or nothing")
endif()

find_program(NOVA_CCACHE ccache)
if(NOVA_CCACHE)
  # Without these ccache refuses every translation unit that uses a precompiled header.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env
      CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime ${NOVA_CCACHE})
  add_compile_options("SHELL:-Xclang -fno-pch-timestamp")
endif()

# Applied to our code, not to generated code.
add_library(nova_warnings INTERFACE)
target_compile_options(nova_warnings INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual -Wconversion -Wno-sign-conversion
  -Wimplicit-fallthrough -Wno-missing-designated-field-initializers -Werror)

# The source of the two objects that carry the precompiled headers (NovaTargets.cmake).
file(WRITE ${CMAKE_BINARY_DIR}/pch.cc "// Carries the precompiled header.\n")
