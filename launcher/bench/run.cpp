#include "launcher/bench/run.h"

#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <unistd.h>

#include "core/device.h"
#include "core/log.h"
#include "core/phase.h"
#include "core/progress.h"
#include "core/rng.h"
#include "core/tensor_memory.h"
#include "launcher/bench/machine.h"
#include "launcher/bench/measure.h"
#include "launcher/doctor/versions_check.h"
#include "parallel/comm/self.h"

namespace frameshard {
namespace {

constexpr VideoSize small_video{64, 64, 5};

// One case on the first ranks; the others wait, which leaves their cores free.
void measure_case(const BenchCase& what, const BenchRank& rank, Communicator& world, BenchReport& report) {
  const bool takes_part = world.rank() < what.mesh.ranks(), first = world.rank() == 0;
  const std::string name = mesh_name(what.mesh) + (what.guided ? ", guidance on" : "");
  set_phase("bench " + name);
  const CommPtr ranks = world.split(takes_part ? 0 : 1, world.rank(), takes_part ? "bench" : "waiting");
  if (takes_part) {
    const bool bar = first && isatty(STDERR_FILENO);
    Progress progress(name, rank.setup.request.num_inference_steps, bar);
    report.measured.push_back(measure(what, rank, *ranks, [&] { progress.advance(); }));
    if (first && !bar) log::info("{}: {:.4g} s/step", name, seconds_a_step(report.measured.back()));
  }
  world.barrier();
}

// What a process does once, so that it is not counted as memory and time of the first case: libraries make
// their code and buffers resident when they are used first.
void warm_up(const Denoiser& denoiser, const BenchSetup& setup, const at::Device& device) {
  const c10::NoGradGuard no_grad;
  const std::vector<int64_t> shape =
      denoiser.latent_shape(small_video.frames, small_video.height, small_video.width);
  const CommPtr self = make_self_communicator();
  const AttentionPtr attention = make_local_attention();
  const ParallelSequence sequence(*self, *attention, Partition::even(denoiser.token_count(shape), 1));
  const at::Tensor latents = initial_noise(shape, 0).unsqueeze(0).to(device);
  const at::Tensor text = initial_noise({1, setup.request.max_sequence_length, setup.facts.text_dim}, 0);
  denoiser.predict(latents, at::full({1}, 500.0, latents.options()), denoiser.prepare(text.to(device)),
                   sequence);
  synchronize(device);
}

}  // namespace

BenchReport measure_all(const BenchSetup& setup, const PlanMachine& machine, const at::Device& device,
                        Communicator& world) {
  BenchReport report{.model = setup.model,
                     .size = setup.size().text(),
                     .dtype = setup.dtype_name,
                     .backend = machine.backend,
                     .tokens = setup.tokens,
                     .text_tokens = setup.request.max_sequence_length,
                     .warmup = setup.warmup,
                     .threads = setup.threads,
                     .weight_bytes = setup.facts.denoiser_bytes,
                     .devices = gather_devices(device, world),
                     .versions = own_versions()};
  set_phase("load");
  count_cpu_tensors();
  at::set_num_threads(setup.threads);
  const auto denoiser = setup.source->load_denoiser({setup.dtype, device});
  warm_up(*denoiser, setup, device);
  world.barrier();
  const BenchRank rank{.setup = setup, .denoiser = *denoiser, .machine = machine, .device = device};
  for (const BenchCase& what : setup.cases) measure_case(what, rank, world, report);
  return report;
}

}  // namespace frameshard
