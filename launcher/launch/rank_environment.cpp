#include "launcher/launch/rank_environment.h"

#include <unistd.h>

#include "launcher/launch/rank_watch.h"

namespace frameshard {

std::filesystem::path log_directory(const LaunchOptions& options, int attempt) {
  return std::filesystem::path(options.log_dir) / options.rdzv_id / fmt::format("attempt_{}", attempt);
}

Environment rank_environment(const LaunchOptions& options, int attempt, const std::filesystem::path& ranks) {
  Environment changes;
  for (char** each = environ; *each; ++each) {
    const std::string text = *each, name = text.substr(0, text.find('='));
    for (const char* prefix : {"PMIX_", "PMI_", "PRTE_", "OMPI_COMM_", "OMPI_UNIVERSE", "PRTERUN_"}) {
      if (name.starts_with(prefix) && !name.starts_with("PMIX_MCA_") && !name.starts_with("PRTE_MCA_"))
        changes.emplace_back(name, "");
    }
  }
  for (const char* name : {"WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "FRAMESHARD_TOKEN"}) {
    changes.emplace_back(name, "");
  }
  // Each node's ranks start where its launcher was started; mpirun would take node 0's directory everywhere.
  changes.emplace_back("FRAMESHARD_DIRECTORY", std::filesystem::current_path().string());
  changes.emplace_back(ranks_directory_variable, ranks.string());
  if (!options.log_dir.empty()) {
    changes.emplace_back("FRAMESHARD_LOG_DIR",
                         std::filesystem::absolute(log_directory(options, attempt)).string());
    changes.emplace_back("FRAMESHARD_REDIRECTS", options.redirects);
    changes.emplace_back("FRAMESHARD_TEE", options.tee);
  }
  return changes;
}

}  // namespace frameshard
