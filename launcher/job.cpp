#include "launcher/job.h"

#include <algorithm>

#include "core/cuda_module.h"
#include "core/device.h"
#include "core/error.h"
#include "core/hash.h"
#include "core/host.h"
#include "core/io/safetensors.h"
#include "core/text.h"
#include "launcher/devices.h"
#include "launcher/placement.h"
#include "models/common/float8.h"
#include "models/masks.h"
#include "parallel/comm/text.h"

namespace frameshard {

namespace {

// Found here and not when the weights are loaded; the file is read again then.
void check_latents(const RequestConfig& request, const ModelFacts& model) {
  if (!request.latents) return;
  const WeightFiles file = WeightFiles::open(*request.latents);
  const TensorEntry* latents = file.find("latents");
  if (!latents) fail(ExitCode::bad_data, "{}: no tensor \"latents\"", *request.latents);
  const std::vector<int64_t> wanted{
      request.batch_size, model.latent_channels, (request.num_frames - 1) / model.frames_per_latent + 1,
      request.height / model.pixels_per_latent, request.width / model.pixels_per_latent};
  if (latents->shape != wanted) {
    fail(ExitCode::bad_data, "{}: latents of shape {}; this request needs {}", *request.latents,
         format_shape(latents->shape), format_shape(wanted));
  }
}

void check_masks(const RequestConfig& request, const ModelFacts& model) {
  prompt_masks(request, request.height / model.pixels_per_latent, request.width / model.pixels_per_latent);
}

void check_request(const RequestConfig& request, const ModelFacts& model) {
  check_positions(request, model);
  check_latents(request, model);
  check_masks(request, model);
}

// What is wrong with one request of a list need not stop the others.
void check_requests(Job& job) {
  const ModelFacts facts = job.checkpoint->facts(at::kFloat, at::kFloat);
  for (size_t i = 0; i < job.requests.size(); ++i) {
    if (job.faults.contains(i)) continue;
    try {
      check_request(job.requests[i], facts);
    } catch (const Error& error) {
      if (!job.goes_on()) throw;
      job.faults.emplace(i, RequestFault{error.code(), error.what()});
    }
  }
  if (job.faults.empty()) return;
  const RequestFault& first = job.faults.begin()->second;
  if (job.faults.size() == job.requests.size()) throw Error(first.code, first.message);
  std::vector<RequestConfig> good;
  for (size_t i = 0; i < job.config.requests.size(); ++i) {
    if (!job.faults.contains(i)) good.push_back(job.config.requests[i]);
  }
  job.config.requests = std::move(good);
}

std::vector<Unit> units_of(const Job& job) {
  std::vector<Unit> units;
  for (size_t i = 0; i < job.requests.size(); ++i) {
    const int64_t samples = job.faults.contains(i) ? 1 : job.requests[i].batch_size;
    for (int64_t sample = 0; sample < samples; ++sample) units.push_back({i, sample});
  }
  return units;
}

}  // namespace

Job open_job(const std::string& config, const std::vector<std::string>& overrides, bool fail_fast) {
  Job job;
  job.fail_fast = fail_fast;
  job.config =
      fail_fast ? load_run_config(config, overrides) : load_run_config(config, overrides, job.faults);
  expand_devices(job.config);
  job.requests = all_requests(job.config);
  job.checkpoint = open_checkpoint(job.config.model.path);
  job.checkpoint->schedule(job.config.scheduler, 2);  // the scheduler's settings are checked when it is made
  job.lora = check_lora(job.config.lora, *job.checkpoint);
  check_requests(job);
  job.units = units_of(job);
  job.directory = std::filesystem::path(job.config.output.directory) / job.config.name;
  return job;
}

ModelFacts model_facts(const Job& job, const std::string& device) {
  const at::Device type(device == "cuda" ? at::kCUDA : at::kCPU);
  const RankParts parts = parts_of(job.config, type, {});
  const RankTypes types = types_of_ranks(job.config, type);
  ModelFacts facts = job.checkpoint->facts(types.widest, parts.vae.dtype);
  facts.wire_bytes = int64_t(c10::elementSize(types.wire));
  facts.denoiser_bytes += job.lora.adapter_values * facts.element_bytes;
  facts.text_encoder_bytes +=
      job.lora.text_encoder_values * int64_t(c10::elementSize(parts.text_encoder.dtype));
  return facts;
}

namespace {

// Of the GPUs that the ranks of this process have, or of this rank's device.
int64_t smallest_memory(const RunConfig& config, const RankPlace& place, const PlanMachine& machine) {
  int64_t least = total_memory(rank_device(config, place));
  if (place.under_mpi || machine.device == "cpu") return least;
  for (int rank = 0; rank < machine.world; ++rank) {
    const at::Device device = rank_device(config, {.rank = rank, .local_rank = rank});
    if (device.is_cuda()) least = std::min(least, total_memory(device));
  }
  return least;
}

}  // namespace

PlanMachine describe_machine(const Job& job, const RankPlace& place, int world, int ranks_per_node,
                             bool own_gpu) {
  const InferConfig& infer = job.config.infer;
  PlanMachine machine{.world = world, .ranks_per_node = ranks_per_node};
  machine.device = device_type(job.config, place.under_mpi);
  machine.speeds = rank_speeds(job.config, world);
  const at::Device type(machine.device == "cuda" ? at::kCUDA : at::kCPU);
  if (job.config.lossy.float8_linear) require_float8(rank_device(job.config, place));
  machine.backend = resolve_backend(infer.backend, place.under_mpi, type, own_gpu);
  const bool processes_share = infer.share_weights && !job.lora.changes_weights;  // see model_parts.cpp
  machine.shared_weights = world > 1 && machine.device == "cpu" && (!place.under_mpi || processes_share);
  machine.memory_bytes = smallest_memory(job.config, place, machine);
  machine.threads_per_rank = int(infer.threads_per_rank.value.value_or(omp_threads(place.cores)));
  describe_places(machine, job.config);
  return machine;
}

RankPlace place_of_threads(int ranks) {
  return {.local_size = ranks, .cores = std::max(1, allowed_cores() / ranks)};
}

PlanMachine describe_threads(const Job& job, int ranks) {
  const bool own_gpu = cuda() && ranks <= cuda()->device_count();
  return describe_machine(job, place_of_threads(ranks), ranks, ranks, own_gpu);
}

namespace {

constexpr const char* weights_key = "weights";

// "key: value" lines, the same in the same order for equal jobs.
std::vector<std::pair<std::string, std::string>> identity(const Job& job) {
  auto keys = flatten(job.config);
  std::string faults;
  for (const auto& [request, fault] : job.faults) faults += fmt::format("{} ", request);
  keys.emplace_back("requests that cannot be made", faults);
  keys.emplace_back(weights_key, job.checkpoint->fingerprint());
  if (!job.lora.identity.empty()) keys.emplace_back("the content of lora's files", job.lora.identity);
  for (size_t i = 0; i < job.requests.size(); ++i) {
    const RequestConfig& request = job.requests[i];
    if (job.faults.contains(i)) continue;
    if (request.latents) keys.emplace_back("latents of " + *request.latents, file_hash(*request.latents));
    if (!request.prompts.empty()) {
      keys.emplace_back(fmt::format("the masks of request {}", i), masks_identity(request));
    }
  }
  return keys;
}

}  // namespace

void check_agreement(const Job& job, Communicator& world) {
  std::string text;
  for (const auto& [key, value] : identity(job)) text += key + '\0' + value + '\0';
  // Equal jobs, as they nearly always are, need not exchange what may be megabytes.
  const auto hashes = gather_texts(world, fmt::format("{:016x}", fnv1a(text)));
  if (std::all_of(hashes.begin(), hashes.end(), [&](auto& hash) { return hash == hashes[0]; })) return;
  const auto all = gather_texts(world, text);
  auto split = [](const std::string& joined) {
    std::vector<std::string> parts;
    for (size_t begin = 0; begin < joined.size();) {
      const size_t end = joined.find('\0', begin);
      parts.push_back(joined.substr(begin, end - begin));
      begin = end + 1;
    }
    return parts;
  };
  for (int rank = 1; rank < world.size(); ++rank) {
    if (all[size_t(rank)] == all[0]) continue;
    const auto first = split(all[0]), other = split(all[size_t(rank)]);
    for (size_t i = 0; i + 1 < std::max(first.size(), other.size()); i += 2) {
      auto at = [&](const std::vector<std::string>& parts, size_t k) {
        return k < parts.size() ? parts[k] : "(nothing)";
      };
      if (at(first, i) == at(other, i) && at(first, i + 1) == at(other, i + 1)) continue;
      // The weights' value is a text of ours, a line a file; others may hold a prompt.
      auto shown = [&](const std::vector<std::string>& parts, size_t k) {
        return at(first, i) == weights_key ? at(parts, k) : one_line(at(parts, k));
      };
      fail(
          ExitCode::disagree,
          "ranks disagree on {}: rank 0 has {}, rank {} has {}; start all ranks with the same configuration "
          "and weights",
          shown(first, i), shown(first, i + 1), rank,
          at(other, i) == at(first, i) ? shown(other, i + 1) : shown(other, i) + " = " + shown(other, i + 1));
    }
  }
}

}  // namespace frameshard
