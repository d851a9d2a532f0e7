#include "services/user/profile.h"

#include <algorithm>

#include "nova/text/unicode.h"

namespace nova::user {
namespace {

Error Bad(std::string_view field, std::string_view problem) {
  return InvalidArgument(std::string(field) + ": " + std::string(problem));
}

enum class LineFeeds { kRefused, kAllowed };

Result<std::string> NormalizeText(std::string_view field, std::string_view value, std::size_t characters_max,
                                  LineFeeds line_feeds = LineFeeds::kRefused) {
  value = text::Trim(value);
  const auto characters = text::CountCharacters(value);
  if (!characters) return Bad(field, "is not valid UTF-8");
  if (*characters > characters_max)
    return Bad(field, "at most " + std::to_string(characters_max) + " characters are allowed");
  const bool shown = text::ForEachCharacter(value, [&](char32_t character) {
    if (character == U'\n') return line_feeds == LineFeeds::kAllowed;
    return !text::IsControl(character) && !text::IsDirectionalFormatting(character);
  });
  if (!shown) return Bad(field, "control characters and characters that turn the direction of text are not allowed");
  return std::string(value);
}

// The rest of `url` behind a scheme that a browser opens without danger; nothing for any other.
std::optional<std::string_view> AfterWebScheme(std::string_view url) {
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; };
  for (const std::string_view scheme : {"https://", "http://"}) {
    if (url.size() >= scheme.size() && std::ranges::equal(url.substr(0, scheme.size()), scheme, {}, lower))
      return url.substr(scheme.size());
  }
  return std::nullopt;
}

Result<std::string> NormalizeWebsite(std::string_view value) {
  constexpr char kField[] = "website";
  NOVA_TRY(std::string url, NormalizeText(kField, value, kWebsiteCharactersMax));
  if (url.empty()) return url;
  const auto rest = AfterWebScheme(url);
  if (!rest) return Bad(kField, "a URL that begins with https:// or http:// is needed");
  const bool clean = text::ForEachCharacter(*rest, [](char32_t character) {
    return !text::IsWhiteSpace(character) &&
           std::u32string_view(U"\"<>\\^`{|}").find(character) == std::u32string::npos;
  });
  const std::string_view authority = rest->substr(0, rest->find_first_of("/?#"));
  if (!clean || authority.empty() || authority.front() == ':') return Bad(kField, "is not a valid URL");
  // "https://bank.example@evil.example" is read as the bank's.
  if (authority.find('@') != std::string_view::npos) return Bad(kField, "a user name in the URL is not allowed");
  return url;
}

Result<std::string> NormalizeAvatar(std::string_view value) {
  if (value.empty()) return std::string();
  const auto id = Uuid::Parse(value);
  if (!id || id->is_nil()) return Bad("avatar_media_id", "the UUID of a medium, or nothing, is needed");
  return id->ToString();
}

}  // namespace

User ForOthers(const User& user) {
  // Built up from nothing: a field that is added later is hidden until somebody decides otherwise.
  User visible{.id = user.id, .username = user.username, .banned_at = user.banned_at, .version = 0};
  if (user.banned_at) return visible;
  visible.display_name = user.display_name;
  visible.avatar = user.avatar;
  visible.verified_at = user.verified_at;
  visible.is_private = user.is_private;
  if (user.is_private) return visible;
  visible.bio = user.bio;
  visible.location = user.location;
  visible.website = user.website;
  visible.version = user.version;
  visible.created_at = user.created_at;
  visible.updated_at = user.updated_at;
  return visible;
}

Result<ProfileUpdate> Normalize(ProfileUpdate update) {
  if (update.expected_version < 1) return Bad("expected_version", "the version of the profile that was read is needed");
  if (!update.display_name && !update.bio && !update.location && !update.website && !update.avatar)
    return InvalidArgument("a field to change is needed");
  if (update.display_name) {
    NOVA_TRY(*update.display_name, NormalizeText("display_name", *update.display_name, kDisplayNameCharactersMax));
    // Folding drops what nobody sees, such as a space of no width.
    const auto seen = text::FoldCase(*update.display_name);
    if (!seen || seen->empty()) return Bad("display_name", "it is needed");
  }
  if (update.bio) {
    NOVA_TRY(*update.bio, NormalizeText("bio", *update.bio, kBioCharactersMax, LineFeeds::kAllowed));
  }
  if (update.location) {
    NOVA_TRY(*update.location, NormalizeText("location", *update.location, kLocationCharactersMax));
  }
  if (update.website) {
    NOVA_TRY(*update.website, NormalizeWebsite(*update.website));
  }
  if (update.avatar) {
    NOVA_TRY(*update.avatar, NormalizeAvatar(*update.avatar));
  }
  return update;
}

void Apply(const ProfileUpdate& update, User& user) {
  if (update.display_name) user.display_name = *update.display_name;
  if (update.bio) user.bio = *update.bio;
  if (update.location) user.location = *update.location;
  if (update.website) user.website = *update.website;
  if (update.avatar) user.avatar = *update.avatar;
}

Result<std::string> NormalizeBanReason(std::string_view reason) {
  NOVA_TRY(std::string normalized, NormalizeText("reason", reason, kBanReasonCharactersMax));
  if (normalized.empty()) return Bad("reason", "it is needed");
  return normalized;
}

std::optional<std::string> FoldUsername(std::string_view username) {
  // Folding shortens a name that somebody may have, but never from here.
  if (username.size() > kUsernameBytesMax * text::kUtf8BytesMax) return std::nullopt;
  auto folded = text::FoldCase(username);
  if (!folded || folded->empty() || folded->size() > kUsernameBytesMax) return std::nullopt;
  // No username holds one, and PostgreSQL would refuse it.
  if (folded->find('\0') != std::string::npos) return std::nullopt;
  return folded;
}

}  // namespace nova::user
