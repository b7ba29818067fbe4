// What a training run trains: the sections `train`, `adapter`, `dreambooth` and `autoencoder`. As in
// config.h, each struct's field list is the one place that names its keys, limits and help.
#pragma once

#include "core/config.h"

namespace frameshard {

/// `train:` what is trained, how long, and in which numbers.
struct TrainMethodConfig {
  std::string method = "lora";
  bool text_encoder = false;
  bool from_scratch = false;
  std::optional<int64_t> max_epochs;
  std::optional<int64_t> max_steps;
  std::optional<int64_t> max_samples;
  int64_t global_batch = 1;
  int64_t micro_batch = 1;
  int64_t seed = 0;
  std::string precision = "auto";
  std::string recompute = "auto";
  double caption_dropout = 0.0;
  double ema = 0.0;
  bool fail_on_bad_item = false;

  bool operator==(const TrainMethodConfig&) const = default;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("method", self.method,
          "lora: low-rank changes of some layers; full: all weights; dreambooth: all weights, or "
          "low-rank ones, on instances and their class; vae: the autoencoder alone (autoencoder:)",
          one_of({"lora", "full", "dreambooth", "vae"}));
    visit("text_encoder", self.text_encoder,
          "the text encoder is trained too, as the denoiser is: low-rank changes, or all weights");
    visit("from_scratch", self.from_scratch, "full and vae: begin from random weights, not the checkpoint's");
    visit("max_epochs", self.max_epochs,
          "times that every sample is seen; the smallest of the three limits counts", in_range(1, 1000000));
    visit("max_steps", self.max_steps, "steps of the optimizer", in_range(1, 1000000000));
    visit("max_samples", self.max_samples, "samples in all", in_range(1, 1000000000000));
    visit("global_batch", self.global_batch,
          "samples of a step, over all ranks together, whatever their number", in_range(1, 1000000));
    visit("micro_batch", self.micro_batch,
          "samples of one size that a rank computes at once, at the most: a small model's pass keeps a GPU "
          "busy only so; memory grows with it, what is learnt does not change",
          in_range(1, 4096));
    visit("seed", self.seed, "of the order, the noise and the times",
          in_range(0, std::numeric_limits<int64_t>::max()));
    visit("precision", self.precision,
          "float32; bf16: bfloat16 with float32 master weights; bf16_pure: bfloat16 alone, "
          "rounded stochastically; auto: float32 on a CPU and for method vae, bf16 on CUDA",
          one_of({"auto", "float32", "bf16", "bf16_pure"}));
    visit("recompute", self.recompute,
          "activations of a block are computed again in the backward pass, not kept; auto: "
          "where they would not fit, and with zero 3",
          one_of({"auto", "on", "off"}));
    visit("caption_dropout", self.caption_dropout,
          "part of the samples that are trained with an empty caption", in_range(0.0, 1.0));
    visit("ema", self.ema,
          "decay a step of an exponential average of the weights, which is what is written; videos and "
          "validation show the weights themselves; 0: none",
          in_range(0.0, 0.99999999));
    visit("fail_on_bad_item", self.fail_on_bad_item,
          "a clip that cannot be read ends the run; else it is left out, and "
          "recorded, before the first step");
  }
};

/// `adapter:` the low-rank changes of method lora.
struct AdapterConfig {
  int64_t rank = 16;
  AutoOr<double> alpha;
  std::vector<std::string> targets;
  std::string format = "diffusers";

  bool operator==(const AdapterConfig&) const = default;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("rank", self.rank, "of the changes", in_range(1, 4096));
    visit("alpha", self.alpha, "they count alpha / rank times; auto: rank",
          in_range(0.0, 1e6).excluding_low());
    visit("targets", self.targets,
          "layers by the end of their names, or with * for any text; empty: to_q, to_k, to_v and "
          "to_out.0 of both attentions");
    visit("format", self.format, "of the file: names as diffusers, ComfyUI or kohya have them",
          one_of({"diffusers", "comfyui", "kohya"}));
  }
};

/// `dreambooth:` a subject (the data's items) and its class, which is to stay as it is.
struct DreamboothConfig {
  bool adapter = false;
  std::string instance_prompt;
  std::string class_prompt;
  std::optional<std::string> class_folder;
  int64_t class_items = 0;
  double prior_loss_weight = 1.0;

  bool operator==(const DreamboothConfig&) const = default;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("adapter", self.adapter, "train low-rank changes (adapter:), not all weights");
    visit("instance_prompt", self.instance_prompt, "caption of every item of data; empty: their own");
    visit("class_prompt", self.class_prompt, "caption of the class' items");
    visit("class_folder", self.class_folder,
          "clips or images of the class; null: class_items are drawn with the model "
          "before it is trained",
          non_empty());
    visit("class_items", self.class_items, "items of the class that are used; 0: all of class_folder",
          in_range(0, 1000000));
    visit("prior_loss_weight", self.prior_loss_weight, "of the class' loss beside the instances'",
          in_range(0.0, 1e6));
  }
};

/// `autoencoder:` the loss of method vae, a sum of these over a clip and what comes back of it.
struct AutoencoderConfig {
  bool decoder_only = false;
  double absolute_weight = 1.0;
  double square_weight = 1.0;
  double edge_weight = 1.0;
  double kl_weight = 1e-5;
  std::vector<int64_t> windows;

  bool operator==(const AutoencoderConfig&) const = default;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("decoder_only", self.decoder_only,
          "the encoder stays as it is, and with it what latents mean to a denoiser");
    visit("absolute_weight", self.absolute_weight, "of the mean absolute difference", in_range(0.0, 1e6));
    visit("square_weight", self.square_weight, "of the mean squared difference", in_range(0.0, 1e6));
    visit("edge_weight", self.edge_weight,
          "of the mean absolute difference of the steps from pixel to pixel, right and down",
          in_range(0.0, 1e6));
    visit("kl_weight", self.kl_weight,
          "of the latents' mean divergence from a normal distribution, a number of theirs",
          in_range(0.0, 1e6));
    visit("windows", self.windows,
          "frames of a window, 1 + a multiple of 4: each sample shows a part of its clip of one of these "
          "lengths, in turn; empty: the whole clip. A model that saw short windows alone drifts after them");
  }
};

}  // namespace frameshard
