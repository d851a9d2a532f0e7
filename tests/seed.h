// The seed of a test that draws at random what it does.
#pragma once

#include <cstdlib>
#include <iostream>
#include <random>

namespace nova::tests {

// NOVA_TEST_SEED if it is set, a random one otherwise; printed, so that a run that failed can be had again.
inline unsigned TestSeed() {
  const char* const given = std::getenv("NOVA_TEST_SEED");
  const unsigned seed =
      given != nullptr ? static_cast<unsigned>(std::strtoul(given, nullptr, 10)) : std::random_device{}();
  std::cout << "seed " << seed << " (NOVA_TEST_SEED=" << seed << " repeats it)" << std::endl;
  return seed;
}

}  // namespace nova::tests
