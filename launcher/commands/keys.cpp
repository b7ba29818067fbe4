#include "core/config.h"
#include "core/error.h"
#include "launcher/commands/commands.h"

namespace frameshard {

int keys_command() {
  for (const KeyInfo& key : config_keys()) {
    fmt::print("{:<34}{:<50}{:<12}{}\n", key.key, key.limits.empty() ? key.type : key.type + " " + key.limits,
               key.default_value, key.help);
  }
  return int(ExitCode::ok);
}

}  // namespace frameshard
