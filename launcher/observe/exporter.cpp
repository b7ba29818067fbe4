#include "launcher/observe/exporter.h"

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "core/io/atomic_file.h"
#include "core/log.h"
#include "launcher/observe/http_server.h"

namespace frameshard {
namespace {

bool is_number(const std::string& text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

class FileExporter final : public Exporter {
 public:
  explicit FileExporter(std::filesystem::path file) : file_(std::move(file)) {
    write_file_atomically(file_, "");
  }

  void publish(const std::string& text) override {
    try {
      write_file_atomically(file_, text);
    } catch (const Error& error) {
      if (!std::exchange(warned_, true)) log::warning("the metrics stay as they are: {}", error.what());
    }
  }

 private:
  std::filesystem::path file_;
  bool warned_ = false;
};

class HttpExporter final : public Exporter {
 public:
  explicit HttpExporter(int port) : server_(make_http_server(port)) {
    log::info("metrics: http://127.0.0.1:{}{}", server_->port(), HttpServer::path);
  }
  void publish(const std::string& text) override { server_->set_page(text); }

 private:
  std::unique_ptr<HttpServer> server_;
};

}  // namespace

std::string target_fault(const std::string& target) {
  if (target.empty()) return "give a file, or a port of 127.0.0.1";
  if (is_number(target) && (target.size() > 5 || std::stoi(target) > 65535)) {
    return fmt::format("{} is no port; they go from 0 (any free one) to 65535 (./{} is a file)", target,
                       target);
  }
  return "";
}

std::unique_ptr<Exporter> open_exporter(const std::string& target) {
  if (is_number(target)) return std::make_unique<HttpExporter>(std::stoi(target));
  return std::make_unique<FileExporter>(target);
}

}  // namespace frameshard
