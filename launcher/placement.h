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
RankParts parts_of(const RunConfig& config, const at::Device& device, int local_rank);

/// The dtype of the denoiser on a device. model.dtype; auto is what the device is good at, and float32 where
/// `devices` mixes GPUs and CPUs, since all ranks of a job exchange the same.
at::ScalarType denoiser_dtype(const RunConfig& config, const at::Device& device);

/// What follows from a mixture of devices, or from a part's place, that the user may not expect: a line each.
std::vector<std::string> placement_notes(const RunConfig& config);

/// Whether the parts of a model take turns on a device, so that it holds the weights of one at a time: with
/// infer.low_memory 2, on GPUs from 1 on.
bool parts_take_turns(const RunConfig& config, const at::Device& device);

/// Fills in what the plan must know: the memory rule, and which parts are on devices that no rank has.
void describe_places(PlanMachine& machine, const RunConfig& config);

}  // namespace frameshard
