#include "launcher/job.h"

#include <set>

#include "core/cuda_module.h"
#include "core/device.h"
#include "core/error.h"
#include "core/hash.h"
#include "core/io/run_directory.h"
#include "core/io/safetensors.h"
#include "core/io/video_writer.h"
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

// A build without an encoder must not find that out after an hour of denoising. The file is never finished.
void check_encoder(const RequestConfig& request, const std::filesystem::path& directory, int fps) {
  VideoWriter(directory / "video.mp4",
              {.width = int(request.width), .height = int(request.height), .fps = fps, .metadata = {}});
}

}  // namespace

std::vector<Unit> Job::units() const {
  std::vector<Unit> units;
  for (size_t i = 0; i < requests.size(); ++i) {
    for (int64_t sample = 0; sample < requests[i].batch_size; ++sample) units.push_back({i, sample});
  }
  return units;
}

std::filesystem::path Job::unit_directory(const Unit& unit) const {
  const RequestConfig& request = requests[unit.request];
  const auto path = request.id.empty() ? directory : directory / request.id;
  return request.batch_size == 1 ? path : path / fmt::format("sample-{}", unit.sample);
}

Job open_job(const std::string& config, const std::vector<std::string>& overrides) {
  Job job;
  job.config = load_run_config(config, overrides);
  job.requests = all_requests(job.config);
  job.checkpoint = open_checkpoint(job.config.model.path);
  job.checkpoint->schedule(job.config.scheduler, 2);  // the scheduler's settings are checked when it is made
  const ModelFacts facts = job.checkpoint->facts(at::kFloat, at::kFloat);
  for (const RequestConfig& request : job.requests) check_latents(request, facts);
  job.directory = std::filesystem::path(job.config.output.directory) / job.config.name;
  return job;
}

namespace {

// Reports of earlier runs must not be taken for this one's.
void remove_old_failures(const std::filesystem::path& directory) {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(directory, ignored)) {
    const std::string name = entry.path().filename().string();
    const bool report = name.starts_with("error.rank") && name.ends_with(".json");
    if (report || name.starts_with(".failure-")) std::filesystem::remove(entry.path(), ignored);
  }
}

}  // namespace

void prepare_outputs(const Job& job) {
  std::set<std::pair<int64_t, int64_t>> checked;  // sizes
  for (const Unit& unit : job.units()) {
    const auto directory = job.unit_directory(unit);
    if (job.config.requests.empty() && !job.config.output.overwrite && has_complete_output(directory)) {
      fail(
          ExitCode::io,
          "{}: a complete output is there and is kept; set output.overwrite=true or another output.directory",
          (directory / "video.mp4").string());
    }
    prepare_output_directory(directory);
    const RequestConfig& request = job.requests[unit.request];
    if (checked.insert({request.width, request.height}).second) {
      check_encoder(request, directory, int(job.config.output.fps));
    }
  }
  remove_old_failures(job.directory);
}

std::string device_type(const std::string& wanted) {
  if (wanted == "cuda" && !cuda()) {
    fail(ExitCode::config, "infer.device is cuda, but {}; set infer.device=cpu or auto", why_no_cuda());
  }
  return wanted == "cpu" || !cuda() ? "cpu" : "cuda";
}

ModelFacts model_facts(const Job& job, const std::string& device) {
  const at::Device type(device == "cuda" ? at::kCUDA : at::kCPU);
  return job.checkpoint->facts(resolve_dtype(job.config.model.dtype, type),
                               resolve_dtype(job.config.model.vae_dtype, type));
}

PlanMachine describe_machine(const Job& job, const RankPlace& place, int world, int ranks_per_node,
                             bool own_gpu) {
  const InferConfig& infer = job.config.infer;
  PlanMachine machine{.world = world, .ranks_per_node = ranks_per_node, .device = device_type(infer.device)};
  const at::Device type(machine.device == "cuda" ? at::kCUDA : at::kCPU);
  machine.backend = resolve_backend(infer.backend, place.under_mpi, type, own_gpu);
  machine.shared_weights = !place.under_mpi && world > 1 && machine.device == "cpu";
  const char* omp = std::getenv("OMP_NUM_THREADS");
  const int fallback = omp && std::atoi(omp) > 0 ? std::atoi(omp) : place.cores;
  machine.threads_per_rank = int(infer.threads_per_rank.value.value_or(fallback));
  return machine;
}

namespace {

// "key: value" lines, the same in the same order for equal jobs.
std::vector<std::pair<std::string, std::string>> identity(const Job& job) {
  auto keys = flatten(job.config);
  keys.emplace_back("weights", job.checkpoint->fingerprint());
  for (const RequestConfig& request : job.requests) {
    if (request.latents) keys.emplace_back("latents of " + *request.latents, file_hash(*request.latents));
  }
  return keys;
}

}  // namespace

void check_agreement(const Job& job, Communicator& world) {
  std::string text;
  for (const auto& [key, value] : identity(job)) text += key + '\0' + value + '\0';
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
      fail(ExitCode::disagree,
           "ranks disagree on {}: rank 0 has {}, rank {} has {}; start all ranks with the same configuration "
           "and weights",
           at(first, i), at(first, i + 1), rank,
           at(other, i) == at(first, i) ? at(other, i + 1) : at(other, i) + " = " + at(other, i + 1));
    }
  }
}

}  // namespace frameshard
