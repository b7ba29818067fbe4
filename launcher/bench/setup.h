// What `frameshard bench` measures, opened and checked: the model, the video, the meshes. No weights are
// read.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "launcher/bench/meshes.h"
#include "launcher/bench/options.h"
#include "models/checkpoint.h"
#include "parallel/attention.h"
#include "parallel/plan.h"

namespace frameshard {

struct BenchSetup {
  std::string model;  ///< name or folder
  std::unique_ptr<DenoiserSource> source;
  ModelFacts facts;  ///< of the transformer alone: nothing is encoded or decoded
  at::ScalarType dtype = at::kFloat;
  std::string dtype_name;
  RequestConfig request;  ///< the video; its steps are those of the warm-up and the timed ones
  int64_t tokens = 0;
  int warmup = 0, threads = 1;
  std::optional<int> ring;
  ExchangeOverlap overlap = ExchangeOverlap::automatic;
  std::string cuda_graph = "auto";
  std::vector<BenchCase> cases;  ///< in the order of the report

  int steps() const { return int(request.num_inference_steps) - warmup; }
  VideoSize size() const { return {request.width, request.height, request.num_frames}; }
  /// This case's request: guidance on or off.
  RequestConfig request_of(const BenchCase& what) const;
};

/// 64 for an unknown model, a bad size, or meshes that these ranks do not suffice for; 78 for a video that
/// the model or a mesh cannot divide; else as open_checkpoint.
BenchSetup open_bench(const BenchOptions& options, int ranks);

/// What a case is planned for; `devices` are those of the whole job, without its meshes.
RunPlan plan_case(const BenchSetup& setup, const BenchCase& what, PlanMachine devices);

}  // namespace frameshard
