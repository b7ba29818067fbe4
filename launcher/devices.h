// Which device each rank has, and how fast it is: `devices:` of the configuration.
#pragma once

#include <string>
#include <vector>

#include <ATen/ATen.h>

#include "core/config.h"
#include "launcher/ranks.h"
#include "parallel/hardware.h"

namespace frameshard {

/// The GPUs of this process.
struct DevicesHere {
  int gpus = 0;
  std::string text;  ///< "here are cuda:0 (NVIDIA H200)", or why there are none

  /// Whether "cpu", "cuda" or "cuda:N" is one of them.
  bool has(const std::string& word) const;
};
DevicesHere devices_here();

/// place.denoiser, the short form, becomes `devices` with weight 1.
void expand_devices(RunConfig& config);

/// Of the devices that this process drives alone: infer.parallel and infer.max_devices shorten `devices`.
/// Returns a warning a line where one of them does.
std::vector<std::string> limit_devices(RunConfig& config);

/// Entries of `devices` whose GPU is not here are left out where infer.missing_devices is skip, with a
/// warning each; 78 where it is not, or none is left. For ranks of one process.
std::vector<std::string> skip_missing_devices(RunConfig& config, const DevicesHere& here);

/// What infer.device says against `devices`, as a warning; empty where they do not contradict each other.
std::string contradiction(const RunConfig& config);

/// The GPUs of a machine that LibTorch cannot use.
struct IdleCards {
  int count = 0;
  std::string why;  ///< "no NVIDIA driver ..."
};
/// None where CUDA is in use, and none where CUDA_VISIBLE_DEVICES hides them, since that is somebody's wish.
IdleCards idle_cards();
/// A warning where `auto` became the CPU although there are such cards; else empty.
std::string unused_gpu(const RunConfig& config, const IdleCards& cards);

/// "cpu" or "cuda": what the ranks compute on; "cuda" where some do. 78 where cuda is asked for and is not
/// here, and where `devices` lists both for ranks that are processes or exchange with NCCL or MPI.
std::string device_type(const RunConfig& config, bool under_mpi = false);

/// "cpu" or "cuda" of a rank's entry in `devices`, else of infer.device; where both are auto, `otherwise`, or
/// what is here.
std::string device_type_of(const RunConfig& config, size_t rank, const std::string& otherwise = "");

/// Whether `devices` lists both GPUs and CPUs.
bool mixes_devices(const RunConfig& config);

/// The device of a rank of this host. 78 for a GPU that is not here, with those that are.
at::Device rank_device(const RunConfig& config, const RankPlace& place);

/// Of the named device; of what is here, where no particular one is named.
int64_t memory_of(const DeviceKind& kind);

/// The weights of `devices`, one a rank; empty where all are the same or to be measured. 78 where their
/// number is not `world`.
std::vector<double> rank_speeds(const RunConfig& config, int world);

/// How many ranks `frameshard run` starts as threads by itself.
struct RankCount {
  int ranks = 1;
  bool chosen = false;  ///< nothing in the configuration asks for so many
};
/// `local_devices`: what local_device_count() says.
/// 78 where sizes are given that need other ranks.
RankCount ranks_alone(const RunConfig& config, const DevicesHere& here, int local_devices);

/// Where the ranks were chosen, and the plan predicts no gain from them: a line that says so, with both times
/// in seconds. Empty where they stay.
std::string too_small_to_gain(const RankCount& count, double seconds, double speedup);

/// A line for each kind of device: the ranks that have it, its name and memory. Collective; the first rank's
/// are returned, the others' are empty.
std::vector<std::string> device_lines(const at::Device& device, Communicator& world);

}  // namespace frameshard
