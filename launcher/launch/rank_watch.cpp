#include "launcher/launch/rank_watch.h"

#include <cstdlib>
#include <fstream>
#include <optional>

#include <fmt/format.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/host.h"

namespace frameshard {
namespace {

namespace fs = std::filesystem;

constexpr const char* reported_name = "reported";

std::optional<fs::path> directory_of_ranks() {
  const char* directory = std::getenv(ranks_directory_variable);
  return directory && *directory ? std::optional<fs::path>(directory) : std::nullopt;
}

// Not in glibc before 2.36. It cannot refer to another process that gets the same number later.
int open_process(pid_t pid) {
  return int(syscall(SYS_pidfd_open, pid, 0));
}

bool is_number(const std::string& name) {
  return !name.empty() && name.size() < 9 && name.find_first_not_of("0123456789") == std::string::npos;
}

}  // namespace

void sign_in(const std::string& rank) {
  const auto directory = directory_of_ranks();
  if (!directory) return;
  // Under its final name when it is complete.
  const fs::path file = *directory / rank, written = file.string() + ".tmp";
  std::error_code ignored;
  std::ofstream(written) << getpid() << " " << host_name() << std::flush;
  fs::rename(written, file, ignored);
}

void note_reported() {
  if (const auto directory = directory_of_ranks()) std::ofstream(*directory / reported_name);
}

RankWatch::RankWatch(fs::path directory) : directory_(std::move(directory)) {
  std::error_code ignored;  // without it the first rank that ended is not known
  fs::create_directory(directory_, ignored);
}

RankWatch::~RankWatch() {
  for (const auto& [rank, process] : ranks_) {
    if (process.descriptor >= 0) close(process.descriptor);
  }
}

void RankWatch::add_descriptors(std::vector<pollfd>& waiting) const {
  if (!first_ended_.empty()) return;
  for (const auto& [rank, process] : ranks_)
    waiting.push_back({.fd = process.descriptor, .events = POLLIN, .revents = 0});
}

// The host is in the rank's own words: two launchers on one machine share the directory.
const std::string& RankWatch::first_ended() {
  if (!first_ended_.empty()) return first_ended_;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(directory_, ignored)) {
    const std::string name = entry.path().filename();
    if (!is_number(name) || ranks_.contains(name)) continue;
    pid_t pid = 0;
    std::string host;
    std::ifstream(entry.path()) >> pid >> host;
    if (pid > 0) ranks_[name] = {open_process(pid), host};
  }
  for (const auto& [rank, process] : ranks_) {
    pollfd ended{.fd = process.descriptor, .events = POLLIN, .revents = 0};
    if (process.descriptor >= 0 && poll(&ended, 1, 0) == 1) {
      first_ended_ = fmt::format("rank {} (host {})", rank, process.host);
      break;
    }
  }
  return first_ended_;
}

bool RankWatch::reported() const {
  return fs::exists(directory_ / reported_name);
}

}  // namespace frameshard
