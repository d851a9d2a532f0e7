#include "nova/rpc/service.h"

#include <stdexcept>

namespace nova::rpc {

void Service::Add(std::string_view service, const char* method, RawHandler handler) {
  if (service != name_) throw std::logic_error(std::string(method) + " does not belong to " + name_);
  if (!handlers_.emplace(method, std::move(handler)).second)
    throw std::logic_error(name_ + "/" + method + " has two handlers");
}

}  // namespace nova::rpc
