#include "launcher/bench/options.h"

#include <charconv>

#include <CLI/CLI.hpp>

#include "core/config.h"
#include "core/text.h"
#include "models/presets.h"

namespace frameshard {
namespace {

// One number of a size, up to `end`.
int64_t take_number(const std::string& text, size_t begin, size_t end) {
  int64_t number = 0;
  const auto [rest, error] = std::from_chars(text.data() + begin, text.data() + end, number);
  if (error == std::errc() && rest == text.data() + end && begin < end) return number;
  fail(ExitCode::usage, "--size: {} is no size; write WIDTHxHEIGHTxFRAMES, as in 832x480x81",
       quote_for_message(text));
}

void check_number(const IntRange& range, const char* what, int64_t number, const std::string& text) {
  const std::string complaint = range.complaint(number);
  if (!complaint.empty()) fail(ExitCode::usage, "--size {}: the {} {}", text, what, complaint);
}

}  // namespace

void add_bench_options(CLI::App& command, BenchOptions& options) {
  command.add_option(
      "--model", options.model,
      "shapes, " + preset_names() +
          " (random weights of these sizes), or a folder of a model in diffusers' layout; left out: "
          "wan-1.3b on GPUs, wan-middle on CPUs");
  command.add_option("--size", options.size,
                     "WIDTHxHEIGHTxFRAMES, as in 832x480x81; left out: the model's usual one");
  command.add_option("--meshes", options.meshes,
                     "cp2,cfg2,cfg2xcp2,dp2,...; left out: all kinds over 2, 4, 8, ... ranks");
  command.add_option("--steps", options.steps, "steps to time (5 on CPUs, 10 on GPUs)")
      ->check(CLI::Range(1, 900));
  command.add_option("--warmup", options.warmup, "steps before them; the first one also prepares the text")
      ->check(CLI::Range(1, 100))
      ->capture_default_str();
  command.add_option("--threads", options.threads, "CPU threads a rank (OMP_NUM_THREADS, else 1)")
      ->check(CLI::Range(1, 1024));
  command.add_option("--dtype", options.dtype, "auto, float32, bfloat16, float16")
      ->check(CLI::IsMember({"auto", "float32", "bfloat16", "float16"}))
      ->capture_default_str();
  command
      .add_option("--ring", options.ring,
                  "ranks of a cp group that keys and values go round, where that divides it "
                  "(infer.attention.ring_size); left out: as it is planned")
      ->check(CLI::Range(1, 65536));
  command
      .add_option("--overlap", options.overlap,
                  "auto, on, off: attention over some heads while others are exchanged "
                  "(infer.overlap_exchange)")
      ->check(CLI::IsMember({"auto", "on", "off"}))
      ->capture_default_str();
  command
      .add_option("--cuda-graph", options.cuda_graph,
                  "auto, on, off: the denoiser's launches recorded and replayed (infer.cuda_graph)")
      ->check(CLI::IsMember({"auto", "on", "off"}))
      ->capture_default_str();
  command
      .add_option("--compare", options.compare,
                  "KEY=VALUE[,KEY=VALUE] of model.dtype, lossy.step_cache, lossy.float8_linear; repeatable: "
                  "time and error of a whole denoising (20 steps) with these options against one without")
      ->allow_extra_args(false)
      ->excludes("--meshes")
      ->excludes("--ring")
      ->excludes("--overlap")
      ->excludes("--cuda-graph");
  command.add_option("--json", options.json,
                     "also write the numbers, with the time of each step, to this file");
  command.add_option("--plot", options.plot, "also draw the speed-up to this PNG file, with gnuplot")
      ->excludes("--compare");
}

std::string options_text(const BenchOptions& options) {
  return fmt::format(
      "--model {} --size {} --meshes {} --steps {} --warmup {} --threads {} --dtype {} --ring {} --overlap "
      "{} "
      "--cuda-graph {}",
      options.model, options.size, options.meshes, options.steps.value_or(0), options.warmup,
      options.threads.value_or(0), options.dtype, options.ring.value_or(0), options.overlap,
      options.cuda_graph);
}

std::string VideoSize::text() const {
  return fmt::format("{}x{}x{}", width, height, frames);
}

VideoSize parse_size(const std::string& text) {
  const size_t first = std::min(text.find('x'), text.size());
  const size_t second = std::min(text.find('x', first + 1), text.size());
  const VideoSize size{.width = take_number(text, 0, first),
                       .height = take_number(text, std::min(first + 1, text.size()), second),
                       .frames = take_number(text, std::min(second + 1, text.size()), text.size())};
  check_number(in_range(16, 8192).multiple_of(16), "width", size.width, text);
  check_number(in_range(16, 8192).multiple_of(16), "height", size.height, text);
  check_number(in_range(1, 4097).one_plus_multiple_of(4), "number of frames", size.frames, text);
  return size;
}

}  // namespace frameshard
