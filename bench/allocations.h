// How often a thread asks for memory. Linking it replaces the C library's malloc by one that counts: operator new ends
// there too, and Asio takes the frames of coroutines from aligned_alloc, which no operator new would see.
#pragma once

#include <cstdint>

namespace nova::bench {

// By this thread, since it began. Zero in a build with a sanitizer, which has a malloc of its own.
std::uint64_t AllocationsOfThisThread();

}  // namespace nova::bench
