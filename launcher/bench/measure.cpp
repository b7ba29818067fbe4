#include "launcher/bench/measure.h"

#include <algorithm>

#include "core/device.h"
#include "core/rng.h"
#include "core/stopwatch.h"
#include "core/tensor_memory.h"
#include "parallel/comm/text.h"

namespace frameshard {
namespace {

// One rank's numbers.
struct RankTimes {
  std::vector<double> step_seconds;  // all steps
  Moved warm, end;                   // after the warm-up, after the last step
  double activation_bytes = 0;
};

RankTimes run_steps(const BenchCase& what, const BenchRank& rank, ProcessMesh& mesh,
                    const AttentionStrategy& attention, const std::function<void()>& on_step) {
  const RequestConfig request = rank.setup.request_of(what);
  const auto schedule = rank.setup.source->schedule({}, request.num_inference_steps);
  const Conditioning text = random_text(request, rank.setup.facts);
  const at::Tensor noise = starting_noise(request, 0, rank.denoiser);
  release_cached_memory(rank.device);
  reset_peak_tensor_bytes(rank.device);
  const int64_t before = tensor_bytes(rank.device);
  RankTimes times;
  mesh.replica().barrier();
  Stopwatch watch;
  DenoiseLoop(rank.denoiser, mesh, attention, rank.device, {.cuda_graph = rank.setup.cuda_graph})
      .run(request, text, *schedule, {.latents = noise}, [&](const DenoiseState& state) {
        times.step_seconds.push_back(watch.lap());
        if (state.steps == rank.setup.warmup) times.warm = moved_by(mesh, attention);
        on_step();
        watch.lap();
      });
  times.end = moved_by(mesh, attention);
  times.activation_bytes = double(std::max<int64_t>(0, peak_tensor_bytes(rank.device) - before));
  return times;
}

// The numbers of all ranks as one measurement.
void combine(Measurement& measurement, const std::vector<std::vector<double>>& all) {
  constexpr size_t fixed = 3;
  double share = 0;
  measurement.step_seconds.assign(all.front().size() - fixed, 0);
  for (const auto& numbers : all) {
    measurement.bytes_sent = std::max(measurement.bytes_sent, numbers[0]);
    share += numbers[1] / double(all.size());
    measurement.activation_bytes = std::max(measurement.activation_bytes, numbers[2]);
    for (size_t i = 0; i < measurement.step_seconds.size(); ++i) {
      measurement.step_seconds[i] = std::max(measurement.step_seconds[i], numbers[fixed + i]);
    }
  }
  if (measurement.exchange_share) measurement.exchange_share = share;
}

}  // namespace

Conditioning random_text(const RequestConfig& request, const ModelFacts& facts) {
  constexpr uint64_t cond_seed = 1, uncond_seed = 2;
  const std::vector<int64_t> shape{1, request.max_sequence_length, facts.text_dim};
  auto prompt = [&](uint64_t seed) {
    at::Tensor text = initial_noise(shape, seed);
    text.slice(1, std::min(prompt_tokens, shape[1])).zero_();
    return text;
  };
  return {.cond = {prompt(cond_seed)}, .uncond = prompt(uncond_seed)};
}

Measurement measure(const BenchCase& what, const BenchRank& rank, Communicator& ranks,
                    const std::function<void()>& on_step) {
  Measurement measurement{.what = what, .attention = plan_case(rank.setup, what, rank.machine).attention};
  ProcessMesh mesh(ranks, what.mesh, group_maker(rank.machine.backend, rank.device));
  const AttentionStrategy attention(mesh.cp(), measurement.attention, rank.setup.overlap);
  ranks.barrier();  // replicas start together
  const RankTimes times = run_steps(what, rank, mesh, attention, on_step);
  // NCCL's collectives return before they are done, so that their time is not known.
  if (ranks.size() == 1 || rank.machine.backend != "nccl") measurement.exchange_share = 0;

  const std::vector<double> timed(times.step_seconds.begin() + rank.setup.warmup, times.step_seconds.end());
  double seconds = 0;
  for (double step : timed) seconds += step;
  std::vector<double> numbers{
      double(times.end.cp_bytes + times.end.cfg_bytes) / double(times.step_seconds.size()),
      (times.end.seconds - times.warm.seconds) / seconds, times.activation_bytes};
  numbers.insert(numbers.end(), timed.begin(), timed.end());
  combine(measurement, gather_numbers(ranks, numbers));
  return measurement;
}

}  // namespace frameshard
