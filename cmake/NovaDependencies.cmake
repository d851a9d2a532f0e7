# Libraries from Debian's packages; ./dev installs them. ARCHITECTURE.md says why each.
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
find_package(OpenSSL 3 REQUIRED)
find_package(Protobuf REQUIRED)
find_package(Boost 1.81 REQUIRED COMPONENTS json)
find_package(GTest REQUIRED)
find_package(prometheus-cpp REQUIRED COMPONENTS core)
pkg_check_modules(GRPC REQUIRED IMPORTED_TARGET grpc++)
pkg_check_modules(LIBPQ REQUIRED IMPORTED_TARGET libpq)
pkg_check_modules(SODIUM REQUIRED IMPORTED_TARGET libsodium)
pkg_check_modules(YAML REQUIRED IMPORTED_TARGET yaml-cpp)
pkg_check_modules(HIREDIS REQUIRED IMPORTED_TARGET hiredis)
pkg_check_modules(PCAP REQUIRED IMPORTED_TARGET libpcap)
pkg_check_modules(ICU REQUIRED IMPORTED_TARGET icu-uc)
pkg_check_modules(SPDLOG REQUIRED IMPORTED_TARGET spdlog fmt)
find_program(NOVA_PROTOC protoc REQUIRED)
find_program(NOVA_GRPC_CPP_PLUGIN grpc_cpp_plugin REQUIRED)

# Asio and Beast are header-only; these definitions must be the same in every target.
add_library(nova_boost INTERFACE)
target_link_libraries(nova_boost INTERFACE Boost::headers Threads::Threads)
target_compile_definitions(nova_boost INTERFACE BOOST_ASIO_NO_DEPRECATED)

# Names the functions in sanitizers' reports, and in their suppressions.
find_program(NOVA_SYMBOLIZER llvm-symbolizer-19 REQUIRED)
