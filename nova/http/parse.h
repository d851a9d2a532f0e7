// What server and client share of reading HTTP. Brings in Beast: for the .cc files of this folder only.
#pragma once

#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <cstddef>
#include <string>

#include "nova/http/message.h"

namespace nova::http {

namespace beast = boost::beast;
namespace wire = boost::beast::http;

// Bytes asked of the socket at a time.
inline constexpr std::size_t kReadChunk = 4096;

// Gives the parser what the buffer holds. No error and not parser.is_done(): it needs more bytes.
//
// Reading is a loop of single async_read_some with this between them, not Beast's composed async_read: a composed
// operation that is cancelled while its next step is queued would simply go on.
template <class Parser>
beast::error_code Feed(Parser& parser, beast::flat_buffer& buffer) {
  beast::error_code error;
  while (buffer.size() > 0 && !parser.is_done()) {
    const std::size_t taken = parser.put(buffer.data(), error);
    buffer.consume(taken);
    if (error == wire::error::need_more) return {};
    if (error || taken == 0) return error;
  }
  return error;
}

template <class Fields>
Headers CopyHeaders(const Fields& fields) {
  Headers headers;
  for (const auto& field : fields) headers.Add(std::string(field.name_string()), std::string(field.value()));
  return headers;
}

}  // namespace nova::http
