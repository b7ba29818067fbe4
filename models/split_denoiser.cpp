#include "models/split_denoiser.h"

#include <algorithm>
#include <utility>

#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>

#include "core/device.h"
#include "core/error.h"
#include "models/common/step_cache.h"
#include "parallel/strategies.h"

namespace frameshard {
namespace {

// By heads while each rank can have one, else as a ring.
AttentionShape shape_for(int ranks, const TextContext& text) {
  if (text.k.empty() || ranks <= text.k.front().size(2)) return {.ulysses = ranks, .ring = 1};
  return {.ulysses = 1, .ring = ranks};
}

}  // namespace

DeviceList::State DeviceList::state() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

void DeviceList::set(std::vector<DeviceShare> shares) {
  const std::lock_guard lock(mutex_);
  state_.shares = std::move(shares);
  ++state_.version;
}

struct SplitDenoiser::Call {
  const at::Tensor& latents;
  const at::Tensor& timestep;
  const TextContext& text;
  const ParallelSequence& sequence;
  StepCache* cache;

  TextContext text_on(const at::Device& device) const {
    TextContext there;
    for (const at::Tensor& k : text.k) there.k.push_back(k.to(device));
    for (const at::Tensor& v : text.v) there.v.push_back(v.to(device));
    if (text.weight.defined()) there.weight = text.weight.to(device);
    return there;
  }
};

SplitDenoiser::SplitDenoiser(std::shared_ptr<const DeviceList> devices, Load load)
    : devices_(std::move(devices)), load_(std::move(load)), now_(devices_->state()) {
  copies_ = copies_for(now_.shares);
  dtype_ = first_copy().dtype();
  make_team();
}

SplitDenoiser::Copies SplitDenoiser::copies_for(const std::vector<DeviceShare>& shares) const {
  Copies copies;
  for (const DeviceShare& share : shares) {
    std::shared_ptr<Denoiser>& copy = copies[share.device];
    if (copy) continue;
    const auto here = copies_.find(share.device);
    if (here != copies_.end()) {
      copy = here->second;
    } else {
      copy = load_(share.device);
      if (quantized_) copy->quantize_linear();
    }
  }
  return copies;
}

// Ranks on CPUs share the threads that the caller's own loops would have.
void SplitDenoiser::make_team() const {
  const auto& shares = now_.shares;
  if (shares.size() == 1) {
    team_ = nullptr;
    return;
  }
  if (!team_ || team_->size() != int(shares.size())) {
    team_ = nullptr;  // ends the old threads first
    team_ = std::make_unique<RankTeam>(int(shares.size()));
  }
  const int threads = at::get_num_threads();
  const auto cpus =
      std::count_if(shares.begin(), shares.end(), [](auto& share) { return share.device.is_cpu(); });
  team_->run([&](Communicator&) { at::set_num_threads(std::max(1, threads / std::max(1, int(cpus)))); });
  at::set_num_threads(threads);  // what threads that start later take
}

// New copies first: where one cannot be had, all stays as it is, and the next call tries again.
void SplitDenoiser::follow() const {
  DeviceList::State next = devices_->state();
  if (next.version == now_.version) return;
  Copies copies = copies_for(next.shares);
  std::swap(copies, copies_);
  std::swap(next, now_);
  try {
    make_team();
  } catch (...) {
    std::swap(copies, copies_);
    std::swap(next, now_);
    team_ = nullptr;
    throw;
  }
  for (auto& [device, copy] : copies) {
    copy = nullptr;
    if (!copies_.contains(device)) release_cached_memory(device);
  }
}

std::string SplitDenoiser::device_names() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> names;
  for (const DeviceShare& share : now_.shares) names.push_back(share.device.str());
  return fmt::format("{}", fmt::join(names, ", "));
}

TextContext SplitDenoiser::prepare(const at::Tensor& text) const {
  const std::lock_guard lock(mutex_);
  follow();
  return first_copy().prepare(text.to(first_device()));
}

std::vector<double> SplitDenoiser::modulation_changes(const at::Tensor& timesteps) const {
  const std::lock_guard lock(mutex_);
  follow();
  return first_copy().modulation_changes(timesteps.to(first_device()));
}

void SplitDenoiser::quantize_linear() {
  const std::lock_guard lock(mutex_);
  follow();
  if (quantized_) return;
  for (auto& [device, copy] : copies_) copy->quantize_linear();
  quantized_ = true;
}

void SplitDenoiser::move_to(const at::Device& device) {
  fail(ExitCode::config,
       "this model is parallel over {}, and is not moved to {}; enable() that device instead", device_names(),
       device.str());
}

int64_t SplitDenoiser::token_count(at::IntArrayRef latent_shape) const {
  const std::lock_guard lock(mutex_);
  return first_copy().token_count(latent_shape);
}

std::vector<int64_t> SplitDenoiser::latent_shape(int64_t frames, int64_t height, int64_t width) const {
  const std::lock_guard lock(mutex_);
  return first_copy().latent_shape(frames, height, width);
}

at::Tensor SplitDenoiser::predict(const at::Tensor& latents, const at::Tensor& timestep,
                                  const TextContext& text, const ParallelSequence& sequence,
                                  StepCache* cache) const {
  const c10::NoGradGuard no_grad;
  if (sequence.tokens().parts() != 1) {
    fail(ExitCode::config,
         "this model is parallel over {} of one process, and its sequence is divided over {} ranks as well; "
         "use one of the two",
         device_names(), sequence.tokens().parts());
  }
  const std::lock_guard lock(mutex_);
  follow();
  const Call call{latents, timestep, text, sequence, cache};
  return (team_ ? predict_together(call) : predict_alone(call)).to(latents.device());
}

at::Tensor SplitDenoiser::predict_alone(const Call& call) const {
  const at::Device& device = first_device();
  if (call.cache && call.cache->residual.defined()) call.cache->residual = call.cache->residual.to(device);
  return first_copy().predict(call.latents.to(device), call.timestep.to(device), call.text_on(device),
                              call.sequence, call.cache);
}

at::Tensor SplitDenoiser::predict_together(const Call& call) const {
  std::vector<at::Tensor> residuals;
  residuals.resize(size_t(team_->size()));
  at::Tensor result;
  synchronize(call.latents.device());  // ranks read on streams of their own
  team_->run([&](Communicator& comm) {
    StepCache mine;
    at::Tensor whole = predict_on_rank(call, comm, mine);
    if (comm.rank() == 0) result = std::move(whole);
    residuals[size_t(comm.rank())] = std::move(mine.residual);
  });
  if (call.cache && !call.cache->reuse) {
    for (at::Tensor& part : residuals) part = part.to(first_device());
    call.cache->residual = at::cat(residuals, 1);
  }
  return result;
}

// `mine` takes this rank's tokens out of call.cache, or gets those for it.
at::Tensor SplitDenoiser::predict_on_rank(const Call& call, Communicator& comm, StepCache& mine) const {
  const c10::NoGradGuard no_grad;
  const at::Device& device = now_.shares[size_t(comm.rank())].device;
  use_device(device);
  std::vector<double> weights;
  for (const DeviceShare& share : now_.shares) weights.push_back(share.weight);
  const AttentionStrategy attention(comm, shape_for(comm.size(), call.text), ExchangeOverlap::automatic,
                                    weights);
  const Denoiser& copy = *copies_.at(device);
  const Partition pieces = attention.divide(copy.token_count(call.latents.sizes().slice(1)));
  const ParallelSequence sequence(comm, *attention, pieces);
  if (call.cache && call.cache->reuse) {
    const int64_t begin = pieces.begin(comm.rank()), size = pieces.size(comm.rank());
    mine.reuse = true, mine.residual = call.cache->residual.narrow(1, begin, size).to(device);
  }
  at::Tensor whole = copy.predict(call.latents.to(device), call.timestep.to(device), call.text_on(device),
                                  sequence, call.cache ? &mine : nullptr);
  synchronize(device);  // the caller reads on a stream of its own
  return whole;
}

}  // namespace frameshard
