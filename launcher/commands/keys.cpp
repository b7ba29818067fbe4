#include "core/error.h"
#include "core/train_config.h"
#include "launcher/commands/commands.h"
#include "launcher/commands/output.h"

namespace frameshard {

int keys_command(bool train) {
  std::string text;
  for (const KeyInfo& key : train ? train_config_keys() : config_keys()) {
    text +=
        fmt::format("{:<33} {:<49} {:<11} {}\n", key.key,
                    key.limits.empty() ? key.type : key.type + " " + key.limits, key.default_value, key.help);
  }
  print_output(text);
  return int(ExitCode::ok);
}

}  // namespace frameshard
