// One page over HTTP, for programs of this host.
#pragma once

#include <memory>
#include <string>

namespace frameshard {

class HttpServer {
 public:
  static constexpr const char* path = "/metrics";

  virtual ~HttpServer() = default;
  virtual int port() const = 0;
  /// What GET on `path` answers from now on. From any thread.
  virtual void set_page(const std::string& text) = 0;
};

/// Listens on 127.0.0.1; port 0 is any free one. 69 where the port is taken, and in a build without
/// cpp-httplib.
std::unique_ptr<HttpServer> make_http_server(int port);

}  // namespace frameshard
