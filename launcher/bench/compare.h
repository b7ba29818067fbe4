// `frameshard bench --compare`: what options that trade exactness gain, and what they cost in exactness.
#pragma once

#include <string>
#include <vector>

#include "launcher/bench/machine.h"
#include "launcher/bench/setup.h"

namespace frameshard {

/// "KEY=VALUE[,KEY=VALUE]" of --compare, as a configuration; of these keys alone: model.dtype,
/// lossy.step_cache, lossy.float8_linear.
struct Variant {
  std::string text;
  at::ScalarType dtype = at::kFloat;
  double step_cache = 0;
  bool float8_linear = false;
};

/// 64 for another form, another key, and another dtype of random weights (each dtype draws its own); 78 for a
/// bad value, and for float8_linear on a device that has no such products.
Variant parse_variant(const std::string& text, const BenchSetup& setup, const at::Device& device);

/// One variant beside the plain run.
struct Comparison {
  std::string options;  ///< as given
  double seconds_a_step = 0;
  double time_ratio = 0;      ///< of its time to the plain run's
  double relative_error = 0;  ///< of the final latents: |variant - plain| / |plain|, L2 norms
  int64_t steps_reused = 0;
};

struct CompareReport {
  BenchReport of;  ///< the model, the video and the machine; no meshes
  int64_t steps = 0;
  double seconds_a_step = 0;  ///< of the plain run, in the mean
  std::vector<Comparison> comparisons{};
};

/// Denoises one video with guidance on this rank alone, plainly and then with each variant: the same noise
/// and the same text, which a folder's own text encoder encodes, and which is random numbers for named
/// models.
CompareReport compare_all(const BenchSetup& setup, const std::vector<Variant>& variants,
                          const at::Device& device);

std::string compare_text(const CompareReport& report);
Json compare_json(const CompareReport& report);

}  // namespace frameshard
