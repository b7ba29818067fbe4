#include "core/cuda_module.h"
#include "core/device.h"
#include "core/error.h"
#include "core/host.h"
#include "launcher/commands/commands.h"
#include "launcher/commands/output.h"

namespace frameshard {

int devices_command() {
  cuda();
  for (const DeviceInfo& info : list_devices()) {
    print_output(fmt::format("{:<8}{} free of {}  {}\n", info.device.str(),
                             format_bytes(double(free_memory(info.device))),
                             format_bytes(double(info.total_bytes)), info.name));
  }
  if (!cuda()) print_output(fmt::format("no GPU: {}\n", why_no_cuda()));
  return int(ExitCode::ok);
}

}  // namespace frameshard
