// Text as people type it: UTF-8, counted in characters and compared without regard to case. The one home of the rules
// by which a name is looked up, so that every service that compares names compares them alike.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace nova::text {

// The longest form of one character.
inline constexpr std::size_t kUtf8BytesMax = 4;

// A character is a Unicode code point throughout. Calls `visit` for each until it returns false. Returns false then,
// and for text that is not UTF-8.
bool ForEachCharacter(std::string_view text, const std::function<bool(char32_t)>& visit);

// Nothing for text that is not UTF-8.
std::optional<std::size_t> CountCharacters(std::string_view text);

// Unicode's NFKC_Casefold: "Zoë", "ZOË" and the same with a combining diaeresis become one, and so do look-alikes that
// Unicode holds for compatible, such as full-width letters. It may be shorter or longer than `text`. Nothing for text
// that is not UTF-8.
std::optional<std::string> FoldCase(std::string_view text);

// By Unicode's properties, line ends and no-break spaces included.
bool IsWhiteSpace(char32_t character);
// General category Cc: tab and line feed are among them.
bool IsControl(char32_t character);
// General category Cf: joiners, marks of direction, and others that are not seen themselves.
bool IsFormat(char32_t character);
// Embeddings, overrides and isolates: they turn the direction of what follows, text of others included, so that a name
// can be made to look like another.
bool IsDirectionalFormatting(char32_t character);

// Adds the character in UTF-8. Precondition: it is a code point and no surrogate.
void Append(char32_t character, std::string& text);

// Without white space at both ends. Text that is not UTF-8 comes back as it is.
std::string_view Trim(std::string_view text);

}  // namespace nova::text
