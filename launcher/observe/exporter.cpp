#include "launcher/observe/exporter.h"

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "core/io/atomic_file.h"
#include "core/io/file_kind.h"
#include "core/log.h"
#include "launcher/observe/http_server.h"

namespace frameshard {
namespace {

namespace fs = std::filesystem;

bool is_number(const std::string& text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

// A word that somebody may have meant as a number.
bool starts_as_number(const std::string& text) {
  const size_t sign = text.starts_with('-') || text.starts_with('+') ? 1 : 0;
  const bool digit = sign < text.size() && text[sign] >= '0' && text[sign] <= '9';
  return digit && text.find_first_of("./") == std::string::npos;
}

// A file that appears by a rename would take the place of a link.
fs::path behind_links(fs::path file) {
  constexpr int most = 40;  // as Linux has it
  std::error_code ignored;
  for (int links = 0; links < most && fs::is_symlink(file, ignored); ++links) {
    file = file.parent_path() / fs::read_symlink(file);
  }
  if (fs::is_symlink(file, ignored)) fail(ExitCode::io, "--prometheus {}: a loop of links", file.string());
  return file;
}

// Nothing but metrics of an earlier run may be replaced.
fs::path metrics_file(const fs::path& target, const fs::path& config) {
  std::error_code ignored;
  check_replaceable("--prometheus " + target.string(), fs::status(target, ignored));
  if (fs::equivalent(target, config, ignored)) {
    fail(ExitCode::io, "--prometheus {}: is the job's configuration; give the name of another file",
         target.string());
  }
  return behind_links(target);
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
  const bool port = is_number(target) && target.size() <= 5 && std::stoi(target) <= 65535;
  if (!port && starts_as_number(target)) {
    return fmt::format("{} is no port; they go from 0 (any free one) to 65535 (./{} is a file)", target,
                       target);
  }
  return "";
}

std::unique_ptr<Exporter> open_exporter(const std::string& target, const std::filesystem::path& config) {
  if (is_number(target)) return std::make_unique<HttpExporter>(std::stoi(target));
  return std::make_unique<FileExporter>(metrics_file(target, config));
}

}  // namespace frameshard
