// Where each part of a model is loaded, and in which dtype: `place:` and `infer.low_memory`.
#pragma once

#include <string>
#include <vector>

#include "launcher/devices.h"
#include "parallel/plan.h"

namespace frameshard {

struct PartPlace {
  at::Device device;
  at::ScalarType dtype;
};

/// The parts of one rank.
struct RankParts {
  PartPlace text_encoder, denoiser, vae;
};

/// place.text_encoder and place.vae on a GPU that is not here become "default" where infer.missing_devices is
/// skip, with a warning each; 78 where it is not.
std::vector<std::string> settle_places(RunConfig& config, const DevicesHere& here);

/// What a rank on `device` loads where. Devices must be here (settle_places()).
RankParts parts_of(const RunConfig& config, const at::Device& device, const RankPlace& place);

/// The dtype of the denoiser on a rank's device: of its entry in `devices`, else model.dtype; auto is what
/// the device is good at, and float32 where `devices` mixes GPUs and CPUs.
at::ScalarType denoiser_dtype(const RunConfig& config, const at::Device& device, int rank);

/// The dtypes of the denoiser over all ranks.
struct RankTypes {
  at::ScalarType widest;
  /// What ranks exchange: the 16-bit type of those that have one, since a number that such a rank sends or
  /// receives has no more digits; float32 where bfloat16 and float16 meet.
  at::ScalarType wire;
  int count = 1;

  bool differ() const { return count > 1; }
};
/// `device`: of all ranks, where `devices` lists none.
RankTypes types_of_ranks(const RunConfig& config, const at::Device& device);

/// What follows from a mixture of devices, or from a part's place, that the user may not expect: a line each.
std::vector<std::string> placement_notes(const RunConfig& config);

/// Whether the parts of a model take turns on a device, so that it holds the weights of one at a time: with
/// infer.low_memory 2, on GPUs from 1 on.
bool parts_take_turns(const RunConfig& config, const at::Device& device);

/// Fills in what the plan must know: the memory rule, the ranks' types, and which parts are on devices that
/// no rank has.
void describe_places(PlanMachine& machine, const RunConfig& config);

}  // namespace frameshard
