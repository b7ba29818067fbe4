#include "launcher/bench/compare.h"

#include <chrono>

#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>

#include "core/device.h"
#include "core/log.h"
#include "core/phase.h"
#include "core/text.h"
#include "launcher/bench/measure.h"
#include "launcher/doctor/versions_check.h"
#include "models/common/float8.h"
#include "models/pipeline.h"
#include "parallel/comm/self.h"

namespace frameshard {
namespace {

// What the quick start's model was trained on; another model can make something of it too.
constexpr const char* prompt = "a red circle moving left on a black background";

struct Run {
  at::Tensor latents;  // on the CPU
  double seconds = 0;
  int64_t reused = 0;
};

Conditioning text_for(const BenchSetup& setup, const at::Device& device) {
  const auto* folder = dynamic_cast<const Checkpoint*>(setup.source.get());
  if (!folder) return random_text(setup.request, setup.facts);
  const c10::NoGradGuard no_grad;
  const auto encoder = folder->load_text_encoder({setup.dtype, device});
  const int64_t length = setup.request.max_sequence_length;
  return {.cond = {encoder->encode(prompt, length).cpu()}, .uncond = encoder->encode("", length).cpu()};
}

Run denoise(const Denoiser& denoiser, const BenchSetup& setup, int64_t steps, const Conditioning& text,
            const Variant& variant, const at::Device& device) {
  const CommPtr alone = make_self_communicator();
  ProcessMesh mesh(*alone, {}, group_maker("mpi", device));
  const AttentionStrategy attention(mesh.cp(), {});
  RequestConfig request = setup.request;
  request.num_inference_steps = steps;
  const auto schedule = setup.source->schedule({}, steps);
  const DenoiseState start{.latents = starting_noise(request, 0, denoiser)};
  Run run;
  const auto begin = std::chrono::steady_clock::now();
  run.latents =
      DenoiseLoop(denoiser, mesh, attention, device, {.step_cache = variant.step_cache, .cuda_graph = "off"})
          .run(request, text, *schedule, start, [&](const DenoiseState& state) { run.reused = state.reused; })
          .cpu();
  run.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return run;
}

// Loads the model as the variant wants it, and runs it after a warm-up.
Run load_and_denoise(const BenchSetup& setup, const Conditioning& text, const Variant& variant,
                     const at::Device& device) {
  const auto denoiser = setup.source->load_denoiser({variant.dtype, device});
  if (variant.float8_linear) denoiser->quantize_linear();
  denoise(*denoiser, setup, setup.warmup, text, variant, device);
  Run run = denoise(*denoiser, setup, setup.steps(), text, variant, device);
  log::info("{}: {:.4g} s/step", variant.text.empty() ? "plain" : variant.text,
            run.seconds / double(setup.steps()));
  return run;
}

std::vector<std::string> assignments(const std::string& text) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

void check_keys(const std::string& text) {
  for (const std::string& part : assignments(text)) {
    const std::string key = part.substr(0, part.find('='));
    if (part.find('=') != std::string::npos &&
        (key == "model.dtype" || key == "lossy.step_cache" || key == "lossy.float8_linear")) {
      continue;
    }
    fail(ExitCode::usage,
         "--compare: {} cannot be compared; write KEY=VALUE[,KEY=VALUE] with the keys model.dtype, "
         "lossy.step_cache and lossy.float8_linear",
         quote_for_message(part));
  }
}

}  // namespace

Variant parse_variant(const std::string& text, const BenchSetup& setup, const at::Device& device) {
  check_keys(text);
  RunConfig config;
  config.model.path = setup.model, config.model.dtype = setup.dtype_name;
  config.request = setup.request;
  config.request->prompt = prompt;
  for (const std::string& part : assignments(text)) apply_override(config, part);
  check_config(config);
  const Variant variant{.text = text,
                        .dtype = resolve_dtype(config.model.dtype, device),
                        .step_cache = config.lossy.step_cache,
                        .float8_linear = config.lossy.float8_linear};
  if (variant.dtype != setup.dtype && !dynamic_cast<const Checkpoint*>(setup.source.get())) {
    fail(ExitCode::usage,
         "--compare {}: the weights of {} are random numbers, others in each dtype; give a folder or shapes "
         "with --model",
         text, setup.model);
  }
  if (variant.float8_linear) require_float8(device);
  return variant;
}

CompareReport compare_all(const BenchSetup& setup, const std::vector<Variant>& variants,
                          const at::Device& device) {
  const CommPtr alone = make_self_communicator();
  CompareReport report{.of = {.model = setup.model,
                              .size = setup.size().text(),
                              .dtype = setup.dtype_name,
                              .backend = "none",
                              .tokens = setup.tokens,
                              .text_tokens = setup.request.max_sequence_length,
                              .warmup = setup.warmup,
                              .threads = setup.threads,
                              .weight_bytes = setup.facts.denoiser_bytes,
                              .devices = gather_devices(device, *alone),
                              .versions = own_versions()},
                       .steps = setup.steps()};
  at::set_num_threads(setup.threads);
  set_phase("text");
  const Conditioning text = text_for(setup, device);
  set_phase("bench plain");
  const Run plain = load_and_denoise(setup, text, {.text = "", .dtype = setup.dtype}, device);
  report.seconds_a_step = plain.seconds / double(report.steps);
  for (const Variant& variant : variants) {
    set_phase("bench " + variant.text);
    const Run run = load_and_denoise(setup, text, variant, device);
    const at::Tensor difference = run.latents - plain.latents;
    report.comparisons.push_back(
        {.options = variant.text,
         .seconds_a_step = run.seconds / double(report.steps),
         .time_ratio = run.seconds / plain.seconds,
         .relative_error = difference.norm().item<double>() / plain.latents.norm().item<double>(),
         .steps_reused = run.reused});
  }
  return report;
}

std::string compare_text(const CompareReport& report) {
  const BenchDevice& device = report.of.devices.front();
  std::vector<Row> rows{{"options", "s/step", "time", "relative error", "steps reused"},
                        {"none", fmt::format("{:.4g}", report.seconds_a_step), "1.00", "0", "0"}};
  for (const Comparison& each : report.comparisons) {
    rows.push_back({each.options, fmt::format("{:.4g}", each.seconds_a_step),
                    fmt::format("{:.2f}", each.time_ratio), fmt::format("{:.3g}", each.relative_error),
                    std::to_string(each.steps_reused)});
  }
  return fmt::format(
      "{}, {}: {} tokens; {}, {} thread{}; {} steps with guidance, on {} (host {})\n"
      "time: against the run without options; relative error: of its final latents\n\n{}",
      report.of.model, report.of.size, report.of.tokens, report.of.dtype, report.of.threads,
      report.of.threads == 1 ? "" : "s", report.steps, device.device, device.host, aligned(rows));
}

Json compare_json(const CompareReport& report) {
  const BenchDevice& device = report.of.devices.front();
  Json json = {{"model", report.of.model},
               {"size", report.of.size},
               {"tokens", report.of.tokens},
               {"text_tokens", report.of.text_tokens},
               {"dtype", report.of.dtype},
               {"threads_a_rank", report.of.threads},
               {"steps", report.steps},
               {"machine",
                {{"versions", report.of.versions},
                 {"ranks", {{{"host", device.host}, {"device", device.device}, {"cores", device.cores}}}}}},
               {"seconds_a_step", report.seconds_a_step},
               {"comparisons", Json::array()}};
  for (const Comparison& each : report.comparisons) {
    json["comparisons"].push_back({{"options", each.options},
                                   {"seconds_a_step", each.seconds_a_step},
                                   {"time_ratio", each.time_ratio},
                                   {"relative_error", each.relative_error},
                                   {"steps_reused", each.steps_reused}});
  }
  return json;
}

}  // namespace frameshard
