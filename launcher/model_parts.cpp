#include "launcher/model_parts.h"

#include <algorithm>

#include "core/device.h"
#include "core/phase.h"
#include "parallel/comm/backends.h"
#include "parallel/comm/text.h"

namespace frameshard {

WhenUnused when_unused(const RunConfig& config, const at::Device& device) {
  if (!parts_take_turns(config, device)) return WhenUnused::stays;
  return config.infer.low_memory == 1 ? WhenUnused::to_host : WhenUnused::freed;
}

namespace {

// Those that share a copy have a host in common, and the type of the weights.
int number_of(int host, at::ScalarType dtype) {
  constexpr int types = int(at::ScalarType::NumOptions);
  return host * types + int(dtype);
}

}  // namespace

std::unique_ptr<HostSharing> sharing_for(const Job& job, const RunPlan& plan, const PartPlace& part,
                                         const std::string& word, LoadRanks ranks) {
  // All ranks must decide alike; on a GPU that is named they would broadcast to themselves.
  if (!ranks.place.under_mpi || !job.config.infer.share_weights || word.starts_with("cuda:")) return nullptr;
  return std::make_unique<HostSharing>(
      number_of(host_number(ranks.place, ranks.world), part.dtype),
      part.device.is_cuda() ? group_maker(plan.machine.backend, part.device) : GroupMaker());
}

// Ranks of a replica read again at the same time, and those of others when they will.
std::unique_ptr<HostGroup> ModelParts::group_for(const PartPlace& part, const std::string& word,
                                                 bool takes_part) {
  const auto sharing = sharing_for(job_, plan_, part, word, ranks_);
  if (!sharing) return nullptr;
  return sharing->among(job_.config.infer.low_memory == 2 ? ranks_.mesh.replica() : ranks_.world, takes_part);
}

// Threads with a GPU each read a weight once, and copy it from one GPU to the next. Replicas that read again
// at moments of their own cannot.
std::unique_ptr<HostGroup> ModelParts::group_of_threads() {
  const bool apart = job_.config.infer.low_memory == 2 && ranks_.mesh.dp().size() > 1;
  if (plan_.machine.device != "cuda" || apart) return nullptr;
  return HostSharing(number_of(0, parts_.denoiser.dtype), {})
      .among(ranks_.world, leads_ && parts_.denoiser.device.is_cuda());
}

void ModelParts::find_leaders() {
  if (ranks_.place.under_mpi || plan_.machine.device != "cuda") return;
  const PartPlace& mine = parts_.denoiser;
  const auto devices = gather_texts(ranks_.world, mine.device.str() + " " + c10::toString(mine.dtype));
  auto first = [&](size_t rank) {
    return std::find(devices.begin(), devices.end(), devices[rank]) - devices.begin() == std::ptrdiff_t(rank);
  };
  leads_ = first(size_t(ranks_.world.rank()));
  for (size_t rank = 0; rank < devices.size(); ++rank) followed_ = followed_ || !first(rank);
}

// Threads that have a device in common: the first of them loads, with those of the other devices.
void ModelParts::take_denoiser_in_order(Communicator& together) {
  if (leads_) take_denoiser();
  if (followed_) together.barrier();
  take_denoiser();
}

void ModelParts::load() {
  find_leaders();
  denoiser_group_ = ranks_.place.under_mpi ? group_for(parts_.denoiser, "default", true) : group_of_threads();
  take_denoiser_in_order(ranks_.world);
  if (!reads_again(parts_.denoiser)) denoiser_group_.reset();
  vae_group_ = group_for(parts_.vae, job_.config.place.vae, ranks_.decodes);
  if (ranks_.decodes && !parts_take_turns(job_.config, parts_.vae.device)) take_vae();
  if (!reads_again(parts_.vae)) vae_group_.reset();
}

void ModelParts::take_denoiser() {
  if (denoiser_) return;
  denoiser_ = cache_.denoisers.take(parts_.denoiser, [&] {
    // Who changes weights needs a copy of its own: what processes share on a CPU is protected from writing.
    const bool own_copy = job_.lora.changes_weights && parts_.denoiser.device.is_cpu();
    auto loaded = job_.checkpoint->load_denoiser(
        {parts_.denoiser.dtype, parts_.denoiser.device, own_copy ? nullptr : denoiser_group_.get()});
    use_lora_files(job_.config.lora, *job_.checkpoint, *loaded);
    if (job_.config.lossy.float8_linear) loaded->quantize_linear();
    return loaded;
  });
}

void ModelParts::take_vae() {
  if (vae_) return;
  vae_ = cache_.vaes.take(parts_.vae, [&] {
    return job_.checkpoint->load_vae({parts_.vae.dtype, parts_.vae.device, vae_group_.get()});
  });
}

const Denoiser& ModelParts::begin_denoising() {
  if (!denoiser_) set_phase("load");
  // One replica: all threads that have the device are here. Several read and move for themselves.
  if (ranks_.mesh.dp().size() == 1) {
    take_denoiser_in_order(ranks_.mesh.replica());
  } else {
    take_denoiser();
  }
  return *denoiser_;
}

void ModelParts::end_denoising() {
  const WhenUnused unused = when_unused(job_.config, parts_.denoiser.device);
  if (unused != WhenUnused::stays &&
      cache_.denoisers.put_back(parts_.denoiser, std::move(denoiser_), unused)) {
    release_cached_memory(parts_.denoiser.device);
  }
  // The VAE may come to a device that another rank computes on.
  if (job_.config.infer.low_memory > 0) ranks_.mesh.replica().barrier();
}

const Vae& ModelParts::begin_decoding() {
  use_device(parts_.vae.device);
  if (parts_.vae.device != parts_.denoiser.device) reset_peak_memory(parts_.vae.device);
  take_vae();
  return *vae_;
}

void ModelParts::end_decoding() {
  const WhenUnused unused = when_unused(job_.config, parts_.vae.device);
  if (unused != WhenUnused::stays && vae_ && cache_.vaes.put_back(parts_.vae, std::move(vae_), unused)) {
    release_cached_memory(parts_.vae.device);
  }
  use_device(parts_.denoiser.device);
}

}  // namespace frameshard
