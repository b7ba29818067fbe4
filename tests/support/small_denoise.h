// Denoising with a small model over a mesh, for tests that compare it with one rank.
#pragma once

#include <numeric>

#include "models/pipeline.h"
#include "parallel/comm/self.h"
#include "parallel/plan_costs.h"
#include "tests/support/rank_test.h"
#include "tests/support/small_model.h"

namespace frameshard::testing {

struct Case {
  MeshShape mesh;
  AttentionShape attention;
  std::vector<double> speeds;  // of all ranks

  Split split() const { return {mesh, attention, speeds}; }
  std::string text() const {
    return fmt::format("cfg {} x cp {}, ulysses {} x ring {}, speeds {}", mesh.cfg, mesh.cp,
                       attention.ulysses, attention.ring, fmt::join(speeds, ":"));
  }
};

inline RequestConfig small_request() {
  RequestConfig request;
  request.prompt = "a";
  request.width = 48, request.height = 80, request.num_frames = 9;  // latents [16, 3, 10, 6], 45 tokens
  request.num_inference_steps = 3, request.max_sequence_length = 20;
  return request;
}

struct Denoised {
  at::Tensor latents;
  int64_t reused = 0;  // steps, of a step cache
  int64_t bytes_sent = 0;
};

/// `options`: but for cfg_speeds, which follow from `what`.
inline Denoised denoise(const SmallModel& model, Communicator& world, const Case& what,
                        const RequestConfig& request, DenoiseOptions options = {}) {
  const at::Device cpu(at::kCPU);
  ProcessMesh mesh(world, what.mesh, group_maker("mpi", cpu));
  const int group = mesh.coord().dp * what.mesh.cfg + mesh.coord().cfg;
  const AttentionStrategy attention(mesh.cp(), what.attention, ExchangeOverlap::automatic,
                                    what.split().speeds_of(group));
  const auto schedule = model.checkpoint().schedule({}, request.num_inference_steps);
  options.cfg_speeds = what.split().group_speeds(mesh.coord().dp);
  Denoised made;
  made.latents = DenoiseLoop(model.denoiser(), mesh, attention, cpu, options)
                     .run(request, model.text(int(request.all_prompts().size())), *schedule,
                          {.latents = starting_noise(request, 0, model.denoiser())},
                          [&](const DenoiseState& state) { made.reused = state.reused; });
  const Moved moved = moved_by(mesh, attention);
  made.bytes_sent = moved.cp_bytes + moved.cfg_bytes;
  return made;
}

/// A step cache's threshold that leaves some of the steps computed and some reused.
inline double middle_threshold(const SmallModel& model, int64_t steps) {
  const auto schedule = model.checkpoint().schedule({}, steps);
  std::vector<float> timesteps;
  for (int64_t i = 0; i < steps; ++i) timesteps.push_back(float(schedule->timestep(i)));
  const auto changes = model.denoiser().modulation_changes(at::tensor(timesteps));
  return 1.5 * std::accumulate(changes.begin(), changes.end(), 0.0) / double(changes.size());
}

/// The result of one rank, and the bytes that the plan counts.
inline void check_same(const std::vector<Case>& cases, const RequestConfig& request = small_request()) {
  const SmallModel model;
  const at::Tensor one = denoise(model, *make_self_communicator(), {}, request).latents;
  const ModelFacts facts = model.checkpoint().facts(at::kFloat, at::kFloat);
  const Workload work = workload_of({request}, facts);
  for (const Case& what : cases) {
    on_ranks({what.mesh.ranks()}, [&](Communicator& world) {
      const Denoised mine = denoise(model, world, what, request);
      check_close(mine.latents, one, 1e-5, what.text());
      const SentBytes planned = sent_bytes(what.split(), work.largest, facts, world.rank());
      check(mine.bytes_sent == planned.cp + planned.cfg,
            fmt::format("{}: rank {} sent {} bytes, planned {}", what.text(), world.rank(), mine.bytes_sent,
                        planned.cp + planned.cfg));
    });
  }
}

}  // namespace frameshard::testing
