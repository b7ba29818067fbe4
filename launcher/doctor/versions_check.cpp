#include "launcher/doctor/versions_check.h"

#include <set>

#include "core/cuda_module.h"
#include "core/version.h"
#include "parallel/comm/mpi_session.h"

namespace frameshard {
namespace {

// "2.9.0 on rank 0 (a), 2.8.0 on ranks 1-2 (b)"
std::string who_has_which(const std::vector<RankVersions>& ranks, const std::string& part) {
  std::map<std::string, std::vector<int>> numbers;
  std::map<std::string, std::set<std::string>> hosts;
  for (const RankVersions& rank : ranks) {
    const auto found = rank.of.find(part);
    const std::string version = found == rank.of.end() ? "none" : found->second;
    numbers[version].push_back(rank.rank);
    hosts[version].insert(rank.host);
  }
  if (numbers.size() == 1) return "";
  std::vector<std::string> texts;
  for (const auto& [version, list] : numbers) {
    texts.push_back(fmt::format("{} on rank{} {} ({})", version, list.size() == 1 ? "" : "s",
                                ranks_text(list), fmt::join(hosts[version], ", ")));
  }
  return fmt::format("{}", fmt::join(texts, ", "));
}

}  // namespace

std::map<std::string, std::string> own_versions() {
  return {{"frameshard", engine_version()},
          {"LibTorch", libtorch_version()},
          {"MPI", mpi_version()},
          {"CUDA and NCCL", cuda() ? cuda()->versions() : "not in use"}};
}

Findings check_versions(const std::vector<RankVersions>& ranks) {
  std::set<std::string> parts;
  for (const RankVersions& rank : ranks) {
    for (const auto& [part, version] : rank.of) parts.insert(part);
  }
  Findings findings;
  std::vector<std::string> same;
  for (const std::string& part : parts) {
    const std::string differing = who_has_which(ranks, part);
    if (differing.empty()) {
      same.push_back(fmt::format("{} {}", part, ranks.front().of.at(part)));
    } else {
      findings.push_back(change("versions", fmt::format("{} is {}", part, differing),
                                "install the same everywhere, and start the same program", Scope::job));
    }
  }
  if (findings.empty())
    findings.push_back(ok("versions", fmt::format("{}", fmt::join(same, ", ")), Scope::job));
  return findings;
}

}  // namespace frameshard
