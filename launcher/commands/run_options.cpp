#include <CLI/CLI.hpp>

#include "launcher/commands/commands.h"
#include "launcher/observe/exporter.h"
#include "parallel/hardware.h"

namespace frameshard {

void add_run_options(CLI::App& command, RunOptions& options) {
  command.add_option("config", options.config, "YAML file")->required();
  command.add_option("overrides", options.overrides,
                     "key=value, over what the file says; `frameshard keys` lists the keys");
  command.add_flag("--fail-fast", options.fail_fast,
                   "end at the first request that fails, instead of going on");
  command.add_flag("--watch", options.observe.watch, "show a table of all ranks instead of the progress bar");
  command.add_flag("--profile", options.observe.profile,
                   "write trace.json beside each video, for ui.perfetto.dev or chrome://tracing");
  command
      .add_option("--prometheus", options.observe.prometheus,
                  "metrics of all ranks: in this file, or at this port of 127.0.0.1 (0: any free one)")
      ->check([](const std::string& target) { return target_fault(target); });
}

void add_train_options(CLI::App& command, TrainOptions& options) {
  command.add_option("config", options.config, "YAML file")->required();
  command.add_option("overrides", options.overrides,
                     "key=value, over what the file says; `frameshard keys --train` lists the keys");
  CLI::Option* plan = command.add_flag("--plan", options.plan,
                                       "print samples, steps, memory and division, and train nothing");
  command
      .add_option("--world", options.world,
                  "ranks; left out: those of the Slurm job around it, else of train alone here")
      ->check(CLI::Range(1, 65536))
      ->needs(plan);
  command.add_option("--device", options.device, "auto (what is here), " + device_names())
      ->capture_default_str()
      ->needs(plan);
}

}  // namespace frameshard
