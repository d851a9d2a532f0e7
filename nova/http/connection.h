// One connection of the client to a server: a socket, with TLS on it if the origin asks for that. Brings in Asio's TLS:
// for the .cc files of this folder only.
#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nova/http/client.h"
#include "nova/runtime/call.h"
#include "nova/runtime/strand.h"
#include "nova/runtime/task.h"

namespace nova::http {

using Endpoints = std::vector<boost::asio::ip::tcp::endpoint>;

// Confined to the strand of its call. Close ends whatever is under way, and every later step fails as well: nothing
// here is cancelled in another way.
class Connection {
 public:
  // `what`: the request, for errors.
  Connection(const runtime::Strand& strand, std::string what) : what_(std::move(what)), socket_(strand) {}

  // Tries one endpoint after the other. Errors: UNAVAILABLE.
  runtime::Task<void> Connect(Endpoints endpoints);
  // Errors: UNAVAILABLE, saying what is wrong with the server's certificate; INVALID_ARGUMENT for authorities that
  // cannot be read.
  runtime::Task<void> StartTls(std::string host, std::string ca_path);
  // Errors: UNAVAILABLE.
  runtime::Task<void> Write(std::string_view bytes);
  // False at the end of the connection. Over TLS that is an end which the server announced: a cut is an error.
  // Errors: UNAVAILABLE.
  runtime::Task<bool> Read(boost::beast::flat_buffer& buffer);

  void Close();

 private:
  using Tls = boost::asio::ssl::stream<boost::asio::ip::tcp::socket&>;

  const std::string what_;
  bool closed_ = false;
  boost::asio::ip::tcp::socket socket_;
  std::optional<boost::asio::ssl::context> context_;
  std::optional<Tls> tls_;
};

}  // namespace nova::http
