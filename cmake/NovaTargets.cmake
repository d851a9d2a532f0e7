# The kinds of target. Folder, namespace, target and include path carry one name: nova/redis is the target
# nova_redis.

# nova_library(<name> SOURCES a.cc b.cc DEPS other_target ...)
function(nova_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_include_directories(${name} PUBLIC ${PROJECT_SOURCE_DIR} ${PROJECT_BINARY_DIR}/generated)
  target_link_libraries(${name} PUBLIC ${ARG_DEPS} PRIVATE nova_warnings)
  target_link_libraries(${name} PUBLIC nova_boost)
  target_precompile_headers(${name} REUSE_FROM nova_pch)
endfunction()

# What every service of services/ stands on, besides its contract.
set(NOVA_SERVICE_DEPS
  nova_api_events nova_base nova_config nova_telemetry nova_runtime nova_resilience nova_proto nova_rpc nova_postgres nova_redis
  nova_events)

# nova_service(<folder> SOURCES a.cc b.cc [DEPS other_target ...])
# The service in services/<folder>, the target nova_<folder>: links NOVA_SERVICE_DEPS and its contract,
# nova_api_<folder>, and embeds schema/*.sql. DEPS is what it uses besides.
function(nova_service folder)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  nova_library(nova_${folder}
    SOURCES ${ARG_SOURCES}
    DEPS nova_api_${folder} ${NOVA_SERVICE_DEPS} ${ARG_DEPS})
  nova_embed_sql(nova_${folder} NAMESPACE nova::${folder})
endfunction()

# nova_executable(<name> SOURCES ... DEPS ...)
function(nova_executable name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR} ${PROJECT_BINARY_DIR}/generated)
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} nova_warnings nova_boost)
  target_precompile_headers(${name} REUSE_FROM nova_pch)
endfunction()

# What every test finds in its environment: where it was built, and how sanitizers report.
set(NOVA_TEST_ENVIRONMENT
  TEST_SOURCE_DIR=${PROJECT_SOURCE_DIR}
  TEST_BINARY_DIR=${PROJECT_BINARY_DIR}
  "ASAN_OPTIONS=detect_stack_use_after_return=1:external_symbolizer_path=${NOVA_SYMBOLIZER}"
  "UBSAN_OPTIONS=print_stacktrace=1:external_symbolizer_path=${NOVA_SYMBOLIZER}"
  "TSAN_OPTIONS=history_size=4 suppressions=${PROJECT_SOURCE_DIR}/tools/tsan.supp external_symbolizer_path=${NOVA_SYMBOLIZER}")

# nova_test(<folder>_<what>_test SOURCES x_test.cc DEPS ... [TIMEOUT seconds])
# One executable and one ctest entry; the entry's name ends in what the test needs: _test, _pg_test.
function(nova_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;DEPS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR} ${PROJECT_BINARY_DIR}/generated)
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} nova_warnings nova_boost GTest::gtest_main GTest::gmock)
  target_precompile_headers(${name} REUSE_FROM nova_test_pch)
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT} ENVIRONMENT "${NOVA_TEST_ENVIRONMENT}")
endfunction()

# The precompiled headers. Their definitions and options must equal those of the targets that reuse them.
add_library(nova_pch OBJECT ${CMAKE_BINARY_DIR}/pch.cc)
target_link_libraries(nova_pch PRIVATE nova_boost)
target_precompile_headers(nova_pch PRIVATE ${PROJECT_SOURCE_DIR}/cmake/pch.h)
add_library(nova_test_pch OBJECT ${CMAKE_BINARY_DIR}/pch.cc)
target_link_libraries(nova_test_pch PRIVATE nova_boost GTest::gtest)
target_precompile_headers(nova_test_pch PRIVATE ${PROJECT_SOURCE_DIR}/cmake/pch.h <gtest/gtest.h>)

# nova_proto_library(<name> PROTOS a/b.proto ... [GRPC] DEPS ...): messages, and for each service the typed method
# table of tools/protoc_gen_nova (`b.nova.h`). GRPC adds gRPC's own stubs, which only the benchmarks need.
# Paths are relative to the repository root, in imports and includes alike.
function(nova_proto_library name)
  cmake_parse_arguments(ARG "GRPC" "" "PROTOS;DEPS" ${ARGN})
  set(generated ${PROJECT_BINARY_DIR}/generated)
  file(MAKE_DIRECTORY ${generated})
  set(sources)
  foreach(proto ${ARG_PROTOS})
    string(REGEX REPLACE "\\.proto$" "" stem ${proto})
    set(outputs ${generated}/${stem}.pb.cc ${generated}/${stem}.pb.h ${generated}/${stem}.nova.h)
    set(flags --cpp_out=${generated} --plugin=protoc-gen-nova=$<TARGET_FILE:protoc_gen_nova> --nova_out=${generated})
    if(ARG_GRPC)
      list(APPEND outputs ${generated}/${stem}.grpc.pb.cc ${generated}/${stem}.grpc.pb.h)
      list(APPEND flags --grpc_out=${generated} --plugin=protoc-gen-grpc=${NOVA_GRPC_CPP_PLUGIN})
    endif()
    add_custom_command(OUTPUT ${outputs}
      COMMAND ${NOVA_PROTOC} -I ${PROJECT_SOURCE_DIR} ${flags} ${PROJECT_SOURCE_DIR}/${proto}
      DEPENDS ${PROJECT_SOURCE_DIR}/${proto} protoc_gen_nova
      COMMENT "protoc ${proto}" VERBATIM)
    list(APPEND sources ${outputs})
  endforeach()
  add_library(${name} STATIC ${sources})
  target_include_directories(${name} PUBLIC ${generated})
  target_link_libraries(${name} PUBLIC protobuf::libprotobuf ${ARG_DEPS})
  if(ARG_GRPC)
    target_link_libraries(${name} PUBLIC PkgConfig::GRPC)
  endif()
endfunction()
