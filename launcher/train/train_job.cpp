#include "launcher/train/train_job.h"

#include "core/error.h"
#include "core/hash.h"
#include "core/io/json_file.h"
#include "core/io/run_directory.h"
#include "launcher/placement.h"
#include "models/presets.h"
#include "models/training/train_state.h"

namespace frameshard {
namespace {

RequestConfig sample_request(const TrainConfig& config, size_t number, const std::string& prompt) {
  RequestConfig request{.id = fmt::format("sample-{}", number), .prompt = prompt};
  request.width = config.data.width;
  request.height = config.data.height;
  request.num_frames = config.data.num_frames;
  request.num_inference_steps = config.sample.num_inference_steps;
  request.guidance_scale = config.sample.guidance_scale;
  request.seed = config.sample.seed;
  request.max_sequence_length = config.data.max_sequence_length;
  return request;
}

// What the engine knows of devices, plans and outputs, it knows of a run's configuration.
RunConfig run_config(const TrainConfig& config) {
  RunConfig run{.model = config.model};
  run.name = config.name;
  run.infer.backend = config.parallel.backend;
  run.infer.device = config.parallel.device;
  run.infer.threads_per_rank = config.parallel.threads_per_rank;
  run.devices = config.devices;
  run.output.directory = config.output.directory;
  if (config.train.precision == "float32") run.model.dtype = "float32";
  if (config.train.precision.starts_with("bf16")) run.model.dtype = "bfloat16";
  for (const std::string& prompt : config.sample.prompts) {
    run.requests.push_back(sample_request(config, run.requests.size() + 1, prompt));
  }
  if (run.requests.empty()) run.request = sample_request(config, 1, "");
  return run;
}

// An autoencoder needs no captions.
DataConfig data_config(const TrainConfig& config) {
  DataConfig data = config.data;
  if (config.trains_vae()) data.missing_captions = "empty";
  return data;
}

DatasetPtr open_data(const TrainConfig& config) {
  if (config.data.procedural) return open_procedural(*config.data.procedural, config.data);
  return open_folder(
      *config.data.folder, data_config(config),
      {.caption = config.dreambooth.instance_prompt, .fail_on_bad_item = config.train.fail_on_bad_item});
}

DatasetPtr open_prior(const TrainConfig& config) {
  const DreamboothConfig& dreambooth = config.dreambooth;
  if (config.train.method != "dreambooth" || !dreambooth.class_folder || dreambooth.prior_loss_weight == 0) {
    return nullptr;
  }
  return open_folder(*config.dreambooth.class_folder, config.data,
                     {.prior = true,
                      .caption = config.dreambooth.class_prompt,
                      .most_items = config.dreambooth.class_items,
                      .fail_on_bad_item = config.train.fail_on_bad_item});
}

DatasetPtr open_validation(const TrainConfig& config) {
  if (config.validation.procedural) return open_procedural(*config.validation.procedural, config.data);
  if (!config.validation.folder) return nullptr;
  return open_folder(*config.validation.folder, data_config(config),
                     {.fail_on_bad_item = config.train.fail_on_bad_item});
}

void check_sizes(const TrainJob& job) {
  if (job.config.trains_vae()) return;  // no positions to run out of
  const ModelFacts facts = job.source().facts(at::kFloat, at::kFloat);
  for (const Dataset* data : {job.data.get(), job.prior.get(), job.validation.get()}) {
    if (!data) continue;
    for (const DataItem& item : data->items()) {
      RequestConfig request = job.run.requests.front();
      request.num_frames = item.size.frames;
      request.height = item.size.height;
      request.width = item.size.width;
      check_positions(request, facts);
    }
  }
}

// Empty where there is none.
std::string hash_of_newest_state(const TrainJob& job) {
  const auto newest = newest_train_state(job.directory / "state");
  return newest.empty() ? "" : JsonReader(newest / "state.json").get<std::string>("config_hash");
}

void remove_old_run(const TrainJob& job) {
  std::error_code ignored;
  for (const char* old : {"state", "samples", "epochs", "tensorboard", "model", "lora.safetensors",
                          "metrics.jsonl", "skipped.jsonl", "train.yaml"}) {
    std::filesystem::remove_all(job.directory / old, ignored);
  }
}

}  // namespace

std::filesystem::path TrainJob::result() const {
  return directory / (config.trains_adapter() ? "lora.safetensors" : "model");
}

namespace {

TrainJob open_training(const std::string& config, const std::vector<std::string>& overrides, bool for_plan) {
  TrainJob job{.config = load_train_config(config, overrides)};
  job.run.config = run_config(job.config);
  job.run.requests = all_requests(job.run.config);
  const Preset* preset = for_plan ? find_preset(job.config.model.path) : nullptr;
  if (preset) {
    job.preset = preset->open();
  } else {
    job.run.checkpoint = open_checkpoint(job.config.model.path);
  }
  job.directory = job.run.directory = std::filesystem::path(job.config.output.directory) / job.config.name;
  for (size_t i = 0; i < job.run.requests.size(); ++i) job.run.units.push_back({i, 0});
  job.data = open_data(job.config);
  job.prior = open_prior(job.config);
  job.validation = open_validation(job.config);
  check_sizes(job);
  return job;
}

}  // namespace

TrainJob open_train_job(const std::string& config, const std::vector<std::string>& overrides) {
  return open_training(config, overrides, /*for_plan=*/false);
}

TrainJob open_train_job_for_plan(const std::string& config, const std::vector<std::string>& overrides) {
  return open_training(config, overrides, /*for_plan=*/true);
}

std::string data_identity(const Dataset* data) {
  if (!data) return "none";
  std::string text;
  for (const DataItem& item : data->items()) {
    text += fmt::format("{}\n{}\n{} {}\n", item.name, item.caption, item.repeats, item.identity);
  }
  return fmt::format("{} items, {:016x}", data->items().size(), fnv1a(text));
}

void prepare_train_outputs(const TrainJob& job) {
  prepare_output_directory(job.directory);
  remove_failure_reports(job.directory);
  const bool complete = std::filesystem::exists(job.result());
  const std::string state = hash_of_newest_state(job);
  const bool other = !state.empty() && state != config_hash(job.config);
  if (!complete && !other) return;
  if (job.config.output.overwrite) return remove_old_run(job);
  const char* cure =
      "give this one another name (that of the config file) or output.directory, or set "
      "output.overwrite=true to "
      "begin anew";
  if (complete) {
    const bool goes_on = !state.empty() && !other;
    fail(ExitCode::io, "{} is there: this training is complete; {}{}", job.result().string(),
         goes_on ? "to go on from its last state take it away and raise train.max_steps or max_epochs, or "
                 : "",
         cure);
  }
  fail(ExitCode::io, "{} was left by a training of another configuration; {}",
       (job.directory / "state").string(), cure);
}

at::ScalarType training_dtype(const TrainJob& job, const at::Device& device) {
  const std::string& precision = job.config.train.precision;
  if (job.config.trains_vae() && precision == "auto") return at::kFloat;
  if (precision != "auto") return precision == "float32" ? at::kFloat : at::kBFloat16;
  return denoiser_dtype(job.run.config, device, 0);
}

std::vector<std::pair<std::string, std::string>> train_identity(const TrainJob& job) {
  std::string keys;
  for (const auto& [key, value] : flatten(job.config)) keys += key + "=" + value + "\n";
  return {{"the configuration", keys},
          {"the weights", job.run.checkpoint->fingerprint()},
          {"the data", data_identity(job.data.get())},
          {"the class' data", data_identity(job.prior.get())},
          {"the validation's data", data_identity(job.validation.get())}};
}

}  // namespace frameshard
