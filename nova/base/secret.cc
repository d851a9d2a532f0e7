#include "nova/base/secret.h"

#include <sodium.h>

namespace nova {

void WipeMemory(void* data, std::size_t size) { sodium_memzero(data, size); }

}  // namespace nova
