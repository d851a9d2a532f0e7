// The precompiled header of every target: heavy headers that many files include. Files still include what they use;
// `./dev check` builds nothing without it, so leave no header out because it happens to be here.
#pragma once

#include <algorithm>
#include <boost/asio.hpp>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "grpcpp/grpcpp.h"
