#include <CLI/CLI.hpp>

#include "launcher/commands/commands.h"

namespace frameshard {

void add_run_options(CLI::App& command, RunOptions& options) {
  command.add_option("config", options.config, "YAML file")->required();
  command.add_option("overrides", options.overrides,
                     "key=value, over what the file says; `frameshard keys` lists the keys");
  command.add_flag("--fail-fast", options.fail_fast,
                   "end at the first request that fails, instead of going on");
}

}  // namespace frameshard
