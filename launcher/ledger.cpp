#include "launcher/ledger.h"

#include "core/io/atomic_file.h"
#include "core/io/json_file.h"
#include "core/log.h"

namespace frameshard {

Ledger::Ledger(const Job& job) : job_(job) {
  announce();
  if (!job.is_list()) return;
  manifest_.emplace(job);
  for (size_t i = 0; i < job.units.size(); ++i) {
    const auto fault = job.faults.find(job.units[i].request);
    if (fault != job.faults.end()) failures_[i] = {fault->second.code, fault->second.message};
  }
}

void Ledger::announce() const {
  for (const auto& [request, fault] : job_.faults) {
    log::warning("{} fails, the others go on: {}", job_.requests[request].id, fault.message);
  }
  for (size_t i = 0; i < job_.units.size(); ++i) {
    const std::string directory = job_.unit_directory(job_.units[i]).string();
    if (job_.found[i] == UnitState::complete) log::info("{} is complete and is kept", directory);
    if (job_.found[i] == UnitState::unusable) {
      log::info("{}: video.mp4 is cut off or of another length; it is made again", directory);
    }
  }
}

void Ledger::note(size_t unit, const std::string& line) {
  const Json json = Json::parse(line);
  if (json.at("status") == "failed") {
    failures_[unit] = {ExitCode(json.at("code").get<int>()), json.at("message").get<std::string>()};
  }
  if (manifest_) manifest_->append(line);
}

void Ledger::close(const QueueUse& use, int replicas) const {
  if (!manifest_ || use.items == 0) return;
  const double idle = use.idle_share(replicas);
  log::info("queue: {} video{} on {} replica{}, {:.1f} % idle", use.items, use.items == 1 ? "" : "s",
            replicas, replicas == 1 ? "" : "s", 100 * idle);
  const Json json = {
      {"videos", use.items}, {"replicas", replicas}, {"seconds", use.total_seconds}, {"idle_share", idle}};
  write_file_atomically(job_.directory / "queue.json", json.dump(2) + "\n");
}

Generated Ledger::outcome() const {
  if (failures_.empty()) return {};
  const auto& [unit, first] = *failures_.begin();
  return {.videos = {},
          .code = first.code,
          .failures = fmt::format("{} of {} videos failed; the first: {}: {}", failures_.size(),
                                  job_.units.size(), job_.unit_name(job_.units[unit]), first.message)};
}

}  // namespace frameshard
