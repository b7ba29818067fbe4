// How many ranks one process has.
#include "core/error.h"
#include "launcher/devices.h"

namespace frameshard {
namespace {

int64_t product(const DiffusionConfig& sizes) {
  return sizes.dp_size.value.value_or(1) * sizes.cfg_size.value.value_or(1) * sizes.cp_size.value.value_or(1);
}

bool all_given(const DiffusionConfig& sizes) {
  return sizes.dp_size.value && sizes.cfg_size.value && sizes.cp_size.value;
}

[[noreturn]] void fail_few_ranks(int64_t fixed) {
  fail(ExitCode::config,
       "dp*cfg*cp = {} but 1 rank was started; start {} ranks (mpirun -n {} frameshard run ..., or "
       "frameshard launch "
       "--nproc-per-node {} run ...), or set infer.backend=threads",
       fixed, fixed, fixed, fixed);
}

void check_limits(const InferConfig& infer, int64_t fixed) {
  if (fixed > 1 && infer.parallel == "off") {
    fail(ExitCode::config,
         "infer.parallel is off, but dp*cfg*cp = {}; set the sizes of infer.diffusion to 1 or auto, or "
         "infer.parallel to auto",
         fixed);
  }
  if (infer.max_devices && fixed > *infer.max_devices) {
    fail(ExitCode::config,
         "infer.max_devices is {}, but dp*cfg*cp = {}; set the sizes of infer.diffusion to less or auto, or "
         "allow {} devices",
         *infer.max_devices, fixed, fixed);
  }
  if (infer.backend == "threads" && fixed > 256) {
    fail(ExitCode::config, "dp*cfg*cp = {} ranks as threads of one process; at most 256 make sense", fixed);
  }
}

}  // namespace

RankCount ranks_alone(const RunConfig& config, const DevicesHere& here, int local_devices) {
  const InferConfig& infer = config.infer;
  const int64_t fixed = product(infer.diffusion);
  if (!config.devices.empty() && infer.backend != "mpi") return {.ranks = int(config.devices.size())};
  check_limits(infer, fixed);
  if (infer.parallel == "off") return {};
  const bool gpus = infer.device != "cpu" && here.gpus > 1 && infer.backend != "mpi" && fixed <= here.gpus;
  if (infer.backend != "threads" && !gpus) {
    if (fixed > 1) fail_few_ranks(fixed);
    return {};
  }
  if (fixed > 1 || all_given(infer.diffusion)) return {.ranks = int(fixed)};
  const int64_t most = infer.max_devices.value_or(local_devices);
  const auto ranks = int(std::min<int64_t>(local_devices, most));
  return {.ranks = ranks, .chosen = ranks > 1};
}

std::string too_small_to_gain(const RankCount& count, double seconds, double speedup) {
  if (!count.chosen || speedup >= 1) return "";
  return fmt::format(
      "one device is used: {:.3g} s of denoising are predicted on it, {:.3g} s on {}; the sizes of "
      "infer.diffusion, or devices, decide otherwise",
      seconds * speedup, seconds, count.ranks);
}

}  // namespace frameshard
