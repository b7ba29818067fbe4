// The part of a configuration that says what video is made.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "core/field_rules.h"

namespace frameshard {

/// One of `prompts:`.
struct PromptConfig {
  std::string text;
  double weight = 1;
  std::optional<std::string> mask;

  bool operator==(const PromptConfig&) const = default;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("text", self.text, "what the video shows, or its part under the mask", required());
    visit("weight", self.weight, "its part of the prediction, in a unit that all share",
          in_range(0.0, 1e6).excluding_low());
    visit("mask", self.mask,
          "a picture of any size: white where the prompt counts, black where it does not; null: everywhere",
          non_empty());
  }
};

/// `context:` how a video longer than the model's length is denoised. In frames of the video.
struct ContextConfig {
  int64_t window = 81;
  int64_t overlap = 16;

  bool operator==(const ContextConfig&) const = default;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("window", self.window, "frames that the model sees at once",
          in_range(1, 4097).one_plus_multiple_of(4));
    visit("overlap", self.overlap, "frames that neighbouring windows share, at least; blended",
          in_range(0, 4096).multiple_of(4));
  }
};

/// `request:` one video, or one batch of the same shape.
struct RequestConfig {
  std::string id;
  std::string prompt;
  std::vector<PromptConfig> prompts;
  std::string negative_prompt;
  int64_t width = 832;
  int64_t height = 480;
  int64_t num_frames = 81;
  int64_t num_inference_steps = 50;
  double guidance_scale = 5.0;
  int64_t seed = 0;
  int64_t max_sequence_length = 512;
  int64_t batch_size = 1;
  std::optional<ContextConfig> context;
  std::optional<std::string> latents;

  /// Guidance needs a second pass of the denoiser for the negative prompt.
  bool uses_guidance() const { return guidance_scale > 1.0; }
  /// Its prompts: `prompts`, or `prompt` alone.
  std::vector<PromptConfig> all_prompts() const;
  /// Texts that a step's prediction is made from: the prompts, and with guidance the negative one.
  int64_t conditionings() const;
  bool operator==(const RequestConfig&) const = default;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("id", self.id, "name of its output directory in a list; empty: a 4-digit number",
          directory_name(100, {"results.jsonl", "queue.json"}));
    visit("prompt", self.prompt, "what the video shows", required_unless("prompts"));
    visit("prompts", self.prompts, "several, each with a weight and a mask, in the place of prompt");
    visit("negative_prompt", self.negative_prompt, "what guidance leads away from");
    visit("width", self.width, "pixels", in_range(16, 8192).multiple_of(16));
    visit("height", self.height, "pixels", in_range(16, 8192).multiple_of(16));
    visit("num_frames", self.num_frames, "frames", in_range(1, 4097).one_plus_multiple_of(4));
    visit("num_inference_steps", self.num_inference_steps, "denoising steps", in_range(1, 1000));
    visit("guidance_scale", self.guidance_scale, "strength of the prompt; 1 or less turns guidance off",
          in_range(0.0, 100.0));
    visit("seed", self.seed, "of the initial noise", in_range(0, std::numeric_limits<int64_t>::max()));
    visit("max_sequence_length", self.max_sequence_length, "tokens of the prompt", in_range(2, 4096));
    visit("batch_size", self.batch_size, "videos; video i uses seed + i", in_range(1, 1024));
    visit("context", self.context, "overlapping windows, for videos longer than the model's length");
    visit("latents", self.latents, "initial noise from a .safetensors file, key \"latents\"", non_empty());
  }
};

}  // namespace frameshard
