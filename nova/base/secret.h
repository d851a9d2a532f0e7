// Secret<T> keeps a value out of every log by construction: it has no conversion to text, no stream operator and no
// formatter, so printing one does not compile. The bytes are wiped when it dies.
#pragma once

#include <concepts>
#include <string>
#include <type_traits>
#include <utility>

namespace nova {

// Overwrites memory in a way the optimiser may not remove.
void WipeMemory(void* data, std::size_t size);

template <class T>
concept Wipeable = requires(T& value) {
  value.data();
  value.size();
  value.clear();
};

template <Wipeable T = std::string>
class Secret {
 public:
  Secret() = default;
  explicit Secret(T value) : value_(std::move(value)) {}
  Secret(const Secret&) = default;
  Secret& operator=(const Secret& other) {
    if (this != &other) {
      Wipe();
      value_ = other.value_;
    }
    return *this;
  }
  // A moved-from small string keeps its bytes, so the source is wiped as well.
  Secret(Secret&& other) noexcept : value_(std::move(other.value_)) { other.Wipe(); }
  Secret& operator=(Secret&& other) noexcept {
    if (this != &other) {
      Wipe();
      value_ = std::move(other.value_);
      other.Wipe();
    }
    return *this;
  }
  ~Secret() { Wipe(); }

  // The one way out; the name makes every use easy to find in review.
  const T& Expose() const { return value_; }
  bool empty() const { return value_.size() == 0; }

 private:
  void Wipe() {
    if constexpr (std::same_as<T, std::string>) value_.resize(value_.capacity());
    if (value_.size() != 0) WipeMemory(value_.data(), value_.size() * sizeof(*value_.data()));
    value_.clear();
  }

  T value_;
};

}  // namespace nova
