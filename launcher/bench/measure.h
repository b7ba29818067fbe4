// Measures one mesh: the real denoising loop over its ranks.
#pragma once

#include <functional>

#include "launcher/bench/measurement.h"
#include "launcher/bench/setup.h"
#include "models/pipeline.h"

namespace frameshard {

/// What all cases share on this rank.
struct BenchRank {
  const BenchSetup& setup;
  const Denoiser& denoiser;
  PlanMachine machine;  ///< as for plan_case
  at::Device device;
};

/// Of a prompt as long as the quick start's; what follows is padding.
constexpr int64_t prompt_tokens = 12;

/// Embeddings as a text encoder might give them, of prompt_tokens tokens and padded with zeros.
Conditioning random_text(const RequestConfig& request, const ModelFacts& facts);

/// Collective over `ranks`, which are those of the case's mesh. `on_step` is called after each step. The
/// result is the same on all of them. Throws as DenoiseLoop.
Measurement measure(const BenchCase& what, const BenchRank& rank, Communicator& ranks,
                    const std::function<void()>& on_step);

}  // namespace frameshard
