#include "launcher/observe/http_server.h"

#include "core/error.h"

#ifdef FRAMESHARD_HAVE_HTTPLIB

#include <mutex>
#include <thread>

#include <httplib.h>

namespace frameshard {
namespace {

constexpr const char* address = "127.0.0.1";
// A client that says nothing, or keeps its connection, must not hold up the end of the run.
constexpr int patience_seconds = 1;

class LocalServer final : public HttpServer {
 public:
  explicit LocalServer(int port) {
    server_.new_task_queue = [] { return new httplib::ThreadPool(2); };  // which the server deletes
    server_.set_keep_alive_max_count(1);
    server_.set_keep_alive_timeout(patience_seconds);
    server_.set_read_timeout(patience_seconds);
    server_.set_write_timeout(patience_seconds);
    // Not the library's SO_REUSEPORT, with which two programs would share a port.
    server_.set_socket_options([](auto socket) {
      const int yes = 1;
      setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    });
    server_.Get(path, [this](const httplib::Request&, httplib::Response& response) {
      const std::lock_guard lock(mutex_);
      response.set_content(page_, "text/plain; version=0.0.4; charset=utf-8");
    });
    bind(port);
    listener_ = std::thread([this] { server_.listen_after_bind(); });
    while (!server_.is_running()) std::this_thread::yield();  // until then stop() does nothing
  }

  ~LocalServer() override {
    server_.stop();
    listener_.join();
  }

  int port() const override { return port_; }

  void set_page(const std::string& text) override {
    const std::lock_guard lock(mutex_);
    page_ = text;
  }

 private:
  void bind(int port) {
    port_ = port == 0 ? server_.bind_to_any_port(address) : port;
    const bool bound = port == 0 ? port_ > 0 : server_.bind_to_port(address, port);
    if (bound) return;
    fail(
        ExitCode::unavailable,
        "port {} of {} cannot be had for metrics: another program has it, or it is not for you; give another "
        "one to --prometheus, or 0 for any",
        port, address);
  }

  httplib::Server server_;
  int port_ = 0;
  std::mutex mutex_;
  std::string page_;  // under mutex_
  std::thread listener_;
};

}  // namespace

std::unique_ptr<HttpServer> make_http_server(int port) {
  return std::make_unique<LocalServer>(port);
}

}  // namespace frameshard

#else

namespace frameshard {

std::unique_ptr<HttpServer> make_http_server(int port) {
  fail(ExitCode::unavailable,
       "metrics cannot be served at port {}: this program was built without cpp-httplib; install its headers "
       "(Debian: libcpp-httplib-dev) and build again, or give a file to --prometheus",
       port);
}

}  // namespace frameshard

#endif
