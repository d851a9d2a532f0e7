#include "nova/base/secret.h"

#include <cstring>
#include <gtest/gtest.h>
#include <ostream>
#include <string>

namespace nova {
namespace {

template <class T>
concept Streamable = requires(std::ostream& out, const T& value) { out << value; };
static_assert(!Streamable<Secret<>>);
static_assert(!std::is_convertible_v<Secret<>, std::string>);
static_assert(!std::is_convertible_v<Secret<>, std::string_view>);

TEST(SecretTest, ExposesOnlyOnRequest) {
  const Secret<> secret(std::string("hunter2"));
  EXPECT_EQ(secret.Expose(), "hunter2");
  EXPECT_FALSE(secret.empty());
}

TEST(SecretTest, AMovedFromSecretIsEmpty) {
  Secret<> source(std::string("short"));  // fits the small-string buffer, where a plain move leaves the bytes
  const Secret<> target = std::move(source);
  EXPECT_EQ(target.Expose(), "short");
  EXPECT_TRUE(source.empty());  // NOLINT(bugprone-use-after-move)
}

TEST(SecretTest, WipesItsBytesWhenItDies) {
  alignas(Secret<>) unsigned char memory[sizeof(Secret<>)];
  auto* const secret = new (memory) Secret<>(std::string("inplace"));
  ASSERT_NE(memmem(memory, sizeof memory, "inplace", 7), nullptr);
  secret->~Secret();
  EXPECT_EQ(memmem(memory, sizeof memory, "inplace", 7), nullptr);
}

}  // namespace
}  // namespace nova
