# nova_embed_sql(<target> NAMESPACE <namespace> [SCHEMA <folder>]): compiles schema/*.sql, or *.sql of another folder, into
# <target>.
#
# The files are called <version>_<name>.sql, such as schema/0001_accounts.sql. The generated header lies beside that
# folder: for services/identity/schema it is "services/identity/migrations.h". It declares
# std::span<const nova::postgres::Migration> <namespace>::Migrations(), in ascending order.
#
# The same file, run with cmake -P, is the generator.

if(CMAKE_SCRIPT_MODE_FILE)
  # Arguments: FILES (separated by |), NAMESPACE, HEADER (its include path), OUTPUT (without extension).
  string(REPLACE "|" ";" FILES "${FILES}")
  set(entries "")
  foreach(path IN LISTS FILES)
    get_filename_component(file "${path}" NAME)
    if(NOT file MATCHES "^([0-9]+)_([a-z0-9_]+)\\.sql$")
      message(FATAL_ERROR "${path}: call it <version>_<name>.sql, such as 0001_accounts.sql")
    endif()
    set(name "${CMAKE_MATCH_2}")
    string(REGEX REPLACE "^0+" "" version "${CMAKE_MATCH_1}")
    file(READ "${path}" text)
    string(FIND "${text}" ")nova_sql\"" end)
    if(NOT end EQUAL -1)
      message(FATAL_ERROR "${path}: contains the end mark of the generated string")
    endif()
    string(APPEND entries "    {${version}, \"${name}\", R\"nova_sql(${text})nova_sql\"},\n")
  endforeach()
  file(WRITE "${OUTPUT}.h" "// Generated from schema/*.sql by nova_embed_sql.
#pragma once

#include <span>

#include \"nova/postgres/migrate.h\"

namespace ${NAMESPACE} {

std::span<const nova::postgres::Migration> Migrations();

}  // namespace ${NAMESPACE}
")
  file(WRITE "${OUTPUT}.cc" "// Generated from schema/*.sql by nova_embed_sql.
#include \"${HEADER}\"

namespace ${NAMESPACE} {

std::span<const nova::postgres::Migration> Migrations() {
  static constexpr nova::postgres::Migration kMigrations[] = {
${entries}  };
  return kMigrations;
}

}  // namespace ${NAMESPACE}
")
  return()
endif()

set(NOVA_EMBED_SQL_SCRIPT ${CMAKE_CURRENT_LIST_FILE} CACHE INTERNAL "")

function(nova_embed_sql target)
  cmake_parse_arguments(ARG "" "NAMESPACE;SCHEMA" "" ${ARGN})
  if(NOT ARG_NAMESPACE)
    message(FATAL_ERROR "nova_embed_sql(${target}): NAMESPACE is missing")
  endif()
  if(NOT ARG_SCHEMA)
    set(ARG_SCHEMA schema)
  endif()
  set(schema ${CMAKE_CURRENT_SOURCE_DIR}/${ARG_SCHEMA})
  file(GLOB files CONFIGURE_DEPENDS ${schema}/*.sql)
  if(NOT files)
    message(FATAL_ERROR "nova_embed_sql(${target}): no *.sql in ${schema}")
  endif()
  # The names are padded with zeros, so their order is that of the versions; Migrate refuses any other.
  list(SORT files)
  list(JOIN files "|" joined)
  file(RELATIVE_PATH folder ${PROJECT_SOURCE_DIR} ${schema}/..)
  set(output ${PROJECT_BINARY_DIR}/generated/${folder}/migrations)
  add_custom_command(OUTPUT ${output}.h ${output}.cc
    COMMAND ${CMAKE_COMMAND} -D FILES=${joined} -D NAMESPACE=${ARG_NAMESPACE} -D HEADER=${folder}/migrations.h
            -D OUTPUT=${output} -P ${NOVA_EMBED_SQL_SCRIPT}
    DEPENDS ${files} ${NOVA_EMBED_SQL_SCRIPT}
    COMMENT "embed ${ARG_SCHEMA} of ${target}" VERBATIM)
  target_sources(${target} PRIVATE ${output}.cc ${output}.h)
  target_link_libraries(${target} PUBLIC nova_postgres)
endfunction()
