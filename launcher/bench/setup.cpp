#include "launcher/bench/setup.h"

#include <filesystem>

#include "core/cuda_module.h"
#include "core/device.h"
#include "core/text.h"
#include "launcher/ranks.h"
#include "models/presets.h"

namespace frameshard {
namespace {

// The quick start's model and video.
constexpr const char* shapes_folder = FRAMESHARD_SOURCE_DIR "/examples/shapes";
constexpr VideoSize shapes_size{128, 128, 33};
constexpr int64_t shapes_text_tokens = 64;

void use_preset(BenchSetup& setup, const Preset& preset) {
  setup.source = preset.open();
  setup.request.width = preset.width, setup.request.height = preset.height;
  setup.request.num_frames = preset.frames;
  setup.request.max_sequence_length = preset.text_tokens;
}

void use_shapes(BenchSetup& setup) {
  setup.source = open_checkpoint(shapes_folder);
  setup.request.width = shapes_size.width, setup.request.height = shapes_size.height;
  setup.request.num_frames = shapes_size.frames;
  setup.request.max_sequence_length = shapes_text_tokens;
}

void open_model(BenchSetup& setup, const std::string& wanted) {
  setup.model = !wanted.empty() ? wanted : cuda() ? "wan-1.3b" : "wan-middle";
  std::error_code unreadable;
  if (const Preset* preset = find_preset(setup.model)) {
    use_preset(setup, *preset);
  } else if (setup.model == "shapes") {
    use_shapes(setup);
  } else if (std::filesystem::is_directory(setup.model, unreadable)) {
    setup.source = open_checkpoint(setup.model);
  } else {
    fail(ExitCode::usage, "--model: {} is neither a folder nor one of shapes, {}",
         quote_for_message(setup.model), preset_names());
  }
}

}  // namespace

RequestConfig BenchSetup::request_of(const BenchCase& what) const {
  RequestConfig changed = request;
  if (!what.guided) changed.guidance_scale = 1;
  return changed;
}

BenchSetup open_bench(const BenchOptions& options, int ranks) {
  BenchSetup setup{.warmup = options.warmup,
                   .threads = options.threads.value_or(omp_threads(1)),
                   .ring = options.ring,
                   .overlap = parse_overlap(options.overlap),
                   .cuda_graph = options.cuda_graph};
  std::optional<VideoSize> size;
  if (!options.size.empty()) size = parse_size(options.size);
  if (!options.meshes.empty()) setup.cases = parse_meshes(options.meshes);
  open_model(setup, options.model);
  if (size) {
    setup.request.width = size->width, setup.request.height = size->height;
    setup.request.num_frames = size->frames;
  }
  setup.request.num_inference_steps = setup.warmup + options.steps.value_or(cuda() ? 10 : 5);
  setup.dtype_name = options.dtype != "auto" ? options.dtype : cuda() ? "bfloat16" : "float32";
  setup.dtype = resolve_dtype(setup.dtype_name, at::Device(at::kCPU));
  setup.facts = setup.source->facts(setup.dtype, at::kFloat);
  setup.facts.text_encoder_bytes = setup.facts.vae_bytes = 0;
  check_positions(setup.request, setup.facts);
  setup.tokens = token_grid(setup.request, setup.facts).total();
  if (setup.cases.empty()) setup.cases = default_meshes(ranks, setup.tokens);
  check_meshes(setup.cases, ranks, setup.tokens);
  setup.cases = with_baselines(setup.cases);
  return setup;
}

RunPlan plan_case(const BenchSetup& setup, const BenchCase& what, PlanMachine devices) {
  RunConfig config;
  config.request = setup.request_of(what);
  config.infer.diffusion.dp_size.value = what.mesh.dp;
  config.infer.diffusion.cfg_size.value = what.mesh.cfg;
  config.infer.diffusion.cp_size.value = what.mesh.cp;
  if (setup.ring && what.mesh.cp % *setup.ring == 0) config.infer.attention.ring_size.value = *setup.ring;
  devices.world = what.mesh.ranks();
  return make_plan(config, setup.facts, devices);
}

}  // namespace frameshard
