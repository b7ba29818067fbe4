// The loss of an autoencoder that is trained, its gradients, and what its samples show.
#include <cmath>
#include <set>

#include <c10/core/GradMode.h>

#include "core/rng.h"
#include "models/checkpoint.h"
#include "models/training/vae_step.h"
#include "tests/support/catch.h"
#include "tests/support/random_folder.h"
#include "tests/support/rank_test.h"
#include "tests/support/scratch.h"

using namespace frameshard;
using frameshard::testing::relative_error;

namespace {

const at::Device cpu(at::kCPU);

// Encodes anything to the same moments; decodes latents, of three channels, to `gain` times themselves, a
// frame at a time.
class FixedVae final : public Vae {
 public:
  FixedVae(at::Tensor mean, at::Tensor log_variance)
      : mean_(std::move(mean)), log_variance_(std::move(log_variance)) {}

  using Vae::decode;
  void decode(const at::Tensor&, Rows, const std::function<void(const at::Tensor&)>&) const override {}
  void decode_unlimited(const at::Tensor& latents,
                        const std::function<void(const at::Tensor&)>& sink) const override {
    for (int64_t i = 0; i < latents.size(2); ++i) sink(gain * latents.narrow(2, i, 1));
  }
  at::Tensor encode(const at::Tensor&) const override { return at::cat({mean_, log_variance_}, 1); }
  at::Tensor normalised(const at::Tensor& mean) const override { return mean; }

  at::Tensor gain = at::ones({1});

 private:
  at::Tensor mean_, log_variance_;
};

// With these pixels in all three channels.
at::Tensor in_all_channels(const at::Tensor& pixels) {
  return pixels.expand({1, 3, pixels.size(0), pixels.size(1), pixels.size(2)}).contiguous();
}

VaeLosses losses_of(const at::Tensor& picture, const at::Tensor& log_variance,
                    const AutoencoderConfig& config = {}) {
  return VaeStep(FixedVae(picture, log_variance), config, cpu).losses(at::zeros_like(picture));
}

bool close(double a, double b) {
  return std::abs(a - b) <= 1e-6 * (1 + std::abs(b));
}

std::unique_ptr<Vae> random_vae() {
  const test::Scratch scratch;
  testing::write_random_folder(scratch.path(), {},
                               std::string(FRAMESHARD_SOURCE_DIR) + "/examples/shapes/tokenizer");
  return open_checkpoint(scratch.path())->load_vae({at::kFloat, at::kCPU});
}

at::Tensor clip() {
  return initial_noise({1, 3, 9, 16, 16}, 7).clamp(-1, 1);
}
at::Tensor noise() {
  return initial_noise({1, 16, 3, 2, 2}, 8);
}

VaeStep::Noise given(const at::Tensor& numbers) {
  return [numbers](at::IntArrayRef) { return numbers; };
}

void require_gradients(const Vae& vae) {
  for (const WeightSlot& slot : vae.weights().slots()) slot.target->requires_grad_(true);
}

std::vector<at::Tensor> take_gradients(const Vae& vae) {
  std::vector<at::Tensor> gradients;
  for (const WeightSlot& slot : vae.weights().slots()) {
    gradients.push_back(std::exchange(slot.target->mutable_grad(), at::Tensor()));
  }
  return gradients;
}

bool is_encoders(const std::string& name) {
  return name.starts_with("encoder.") || name.starts_with("quant_conv.");
}

// The total for latents that are drawn, from its definition.
at::Tensor total_by_definition(const Vae& vae, const AutoencoderConfig& config) {
  const auto moments = vae.encode(clip()).chunk(2, 1);
  const at::Tensor z = moments[0] + (moments[1] / 2).exp() * noise();
  std::vector<at::Tensor> parts;
  vae.decode_unlimited(vae.normalised(z), [&](const at::Tensor& frames) { parts.push_back(frames); });
  const at::Tensor picture = at::cat(parts, 2);
  const at::Tensor right = (picture.diff(1, 4) - clip().diff(1, 4)).abs(),
                   down = (picture.diff(1, 3) - clip().diff(1, 3)).abs();
  const at::Tensor kl = (moments[0].square() + moments[1].exp() - 1 - moments[1]).mean() / 2;
  return config.absolute_weight * at::l1_loss(picture, clip()) +
         config.square_weight * at::mse_loss(picture, clip()) +
         config.edge_weight * at::cat({right.flatten(), down.flatten()}).mean() + config.kl_weight * kl;
}

}  // namespace

TEST_CASE("losses of values that were computed by hand") {
  const AutoencoderConfig config{
      .absolute_weight = 2, .square_weight = 3, .edge_weight = 5, .kl_weight = 0.5};
  const at::Tensor picture = in_all_channels(at::tensor({1.0F, -3.0F, 2.0F, 2.0F}).view({1, 2, 2}));
  const VaeLosses losses = losses_of(picture, at::zeros_like(picture), config);
  CHECK(close(losses.absolute, 2));
  CHECK(close(losses.square, 4.5));
  CHECK(close(losses.edges, (4 + 0 + 1 + 5) / 4.0));
  CHECK(close(losses.kl, 4.5 / 2));  // variance 1
  CHECK(close(losses.total, 2 * 2 + 3 * 4.5 + 5 * 2.5 + 0.5 * 2.25));
}

TEST_CASE("edges where a side has one pixel") {
  const auto edges = [](const at::Tensor& pixels) {
    const at::Tensor picture = in_all_channels(pixels);
    return losses_of(picture, at::zeros_like(picture)).edges;
  };
  const at::Tensor row = at::tensor({1.0F, -3.0F, 0.0F});
  CHECK(close(edges(row.view({1, 1, 3})), 3.5));
  CHECK(close(edges(row.view({1, 3, 1})), 3.5));
  CHECK(edges(row.view({3, 1, 1})) == 0);
}

TEST_CASE("the variance's logarithm is limited") {
  const at::Tensor zero = at::zeros({1, 3, 1, 1, 1});
  CHECK(close(losses_of(zero, zero - 1000).kl, (std::exp(-30.0) - 1 + 30) / 2));
  CHECK(close(losses_of(zero, zero + 1000).kl, (std::exp(20.0) - 1 - 20) / 2));
  CHECK(close(losses_of(zero, zero + std::log(4.0)).kl, (4 - 1 - std::log(4.0)) / 2));
}

TEST_CASE("latents are drawn around their means by the noise that is given") {
  const std::vector<int64_t> shape{1, 3, 5, 2, 2};
  const at::Tensor mean = initial_noise(shape, 1), log_variance = initial_noise(shape, 2),
                   drawn = initial_noise(shape, 3), target = initial_noise(shape, 4);
  const FixedVae vae(mean, log_variance);
  const VaeLosses losses = VaeStep(vae, {}, cpu).losses(target);
  CHECK(close(losses.square, (mean - target).square().mean().item<double>()));
  vae.gain.requires_grad_(true);
  const at::Tensor difference = mean + (log_variance / 2).exp() * drawn - target;
  CHECK(close(VaeStep(vae, {}, cpu).backward(target, given(drawn), 1).square,
              difference.square().mean().item<double>()));
}

TEST_CASE("gradients are those of the definition") {
  const auto vae = random_vae();
  require_gradients(*vae);
  const AutoencoderConfig config{
      .absolute_weight = 0.7, .square_weight = 1.3, .edge_weight = 0.4, .kl_weight = 0.2};
  const VaeLosses losses = VaeStep(*vae, config, cpu).backward(clip(), given(noise()), 0.25);
  const auto gradients = take_gradients(*vae);
  const at::Tensor total = total_by_definition(*vae, config);
  CHECK(close(losses.total, total.item<double>()));
  (total * 0.25).backward();
  const auto wanted = take_gradients(*vae);
  for (size_t i = 0; i < wanted.size(); ++i) {
    INFO(vae->weights().slots()[i].name);
    REQUIRE(gradients[i].defined());
    CHECK(wanted[i].norm().item<double>() > 0);
    CHECK(relative_error(gradients[i], wanted[i]) < 1e-3);
  }
}

// Where the losses of float32 can be told apart: along each weight's own gradient, without the kinks of
// absolute values. What carries a gradient from chunk to chunk shows here.
TEST_CASE("gradients are the slopes of the loss") {
  const auto vae = random_vae();
  const AutoencoderConfig config{
      .absolute_weight = 0, .square_weight = 1, .edge_weight = 0, .kl_weight = 0.1};
  const VaeStep step(*vae, config, cpu);
  require_gradients(*vae);
  step.backward(clip(), given(noise()), 1);
  const auto gradients = take_gradients(*vae);
  const c10::NoGradGuard no_grad;
  const auto& slots = vae->weights().slots();
  const std::set<std::string> chosen{"encoder.conv_in.weight",
                                     "encoder.mid_block.attentions.0.to_qkv.weight",
                                     "encoder.norm_out.gamma",
                                     "quant_conv.bias",
                                     "decoder.conv_in.weight",
                                     "decoder.mid_block.resnets.0.norm1.gamma",
                                     "decoder.up_blocks.0.upsamplers.0.time_conv.weight",
                                     "decoder.up_blocks.1.upsamplers.0.resample.1.weight",
                                     "decoder.conv_out.bias"};
  size_t found = 0;
  for (size_t i = 0; i < slots.size(); ++i) {
    if (!chosen.contains(slots[i].name)) continue;
    INFO(slots[i].name);
    ++found;
    const double slope = gradients[i].norm().item<double>(), distance = 0.01;
    REQUIRE(slope > 0);
    at::Tensor& weight = *slots[i].target;
    const at::Tensor before = weight.clone(), along = gradients[i] * (distance / slope);
    const auto loss_at = [&](double side) {
      weight.copy_(before + side * along);
      return total_by_definition(*vae, config).item<double>();
    };
    const double difference = loss_at(1) - loss_at(-1);
    weight.copy_(before);
    CHECK(std::abs(difference / (2 * distance) - slope) < 0.05 * slope + 2e-5);
  }
  CHECK(found == chosen.size());
}

TEST_CASE("gradients add up") {
  const auto vae = random_vae();
  require_gradients(*vae);
  const VaeStep step(*vae, {}, cpu);
  step.backward(clip(), given(noise()), 1);
  const auto once = take_gradients(*vae);
  step.backward(clip(), given(noise()), 0.5), step.backward(clip(), given(noise()), 0.5);
  const auto twice = take_gradients(*vae);
  for (size_t i = 0; i < once.size(); ++i) CHECK(relative_error(twice[i], once[i]) < 1e-5);
}

TEST_CASE("the decoder alone is trained") {
  const auto vae = random_vae();
  require_gradients(*vae);
  AutoencoderConfig config{.absolute_weight = 0, .edge_weight = 0};  // no kinks
  const VaeLosses whole = VaeStep(*vae, config, cpu).backward(clip(), given(noise()), 1);
  const auto wanted = take_gradients(*vae);
  config.decoder_only = true;
  const VaeLosses losses = VaeStep(*vae, config, cpu).backward(clip(), given(noise()), 1);
  const auto gradients = take_gradients(*vae);
  for (size_t i = 0; i < wanted.size(); ++i) {
    const std::string& name = vae->weights().slots()[i].name;
    INFO(name);
    REQUIRE(gradients[i].defined() != is_encoders(name));
    // The encoder computes by other loops where no gradient is wanted.
    if (gradients[i].defined()) CHECK(relative_error(gradients[i], wanted[i]) < 1e-3);
  }
  CHECK(whole.kl > 0);
  CHECK(std::abs(losses.kl / whole.kl - 1) < 1e-5);
  CHECK(std::abs(losses.total / whole.total - 1) < 1e-5);
}

TEST_CASE("losses want no gradients, and leave none") {
  const auto vae = random_vae();
  require_gradients(*vae);
  const VaeLosses losses = VaeStep(*vae, {}, cpu).losses(clip());
  CHECK(losses.total > 0);
  for (const WeightSlot& slot : vae->weights().slots()) CHECK_FALSE(slot.target->grad().defined());
}

TEST_CASE("each length of window has its turn") {
  const at::Tensor frames =
      at::arange(21, at::kFloat).view({1, 1, 21, 1, 1}).expand({1, 3, 21, 2, 2}).contiguous();
  const std::vector<int64_t> windows{5, 1, 17, 81};
  std::set<int64_t> places;
  for (int64_t sample = 0; sample < 400; ++sample) {
    const at::Tensor window = training_window(frames, windows, sample, 3);
    REQUIRE(window.size(2) == std::min<int64_t>(windows[size_t(sample % 4)], 21));
    const auto begin = window[0][0][0][0][0].item<int64_t>();
    REQUIRE(at::equal(window, frames.narrow(2, begin, window.size(2))));
    CHECK(at::equal(training_window(frames, windows, sample, 3), window));
    if (sample % 4 == 0) places.insert(begin);
  }
  CHECK(places.size() == 17);  // all that there are for 5 of 21 frames
}

TEST_CASE("windows differ with the seed, and are left out where none are asked for") {
  const at::Tensor frames = at::arange(81, at::kFloat).view({1, 1, 81, 1, 1});
  int64_t other = 0;
  for (int64_t sample = 0; sample < 50; ++sample) {
    const at::Tensor window = training_window(frames, {9}, sample, 1);
    other += at::equal(window, training_window(frames, {9}, sample, 2)) ? 0 : 1;
  }
  CHECK(other > 40);
  CHECK(at::equal(training_window(frames, {}, 5, 1), frames));
  CHECK(training_window(frames.narrow(2, 0, 1), {9, 17}, 5, 1).size(2) == 1);  // an image
}

TEST_CASE("moments of latents are those of all numbers of a channel") {
  const at::Tensor first = initial_noise({1, 3, 2, 4, 5}, 1) * 3 + 2,
                   second = initial_noise({2, 3, 1, 2, 2}, 2);
  const at::Tensor all = at::cat({first.transpose(0, 1).flatten(1), second.transpose(0, 1).flatten(1)}, 1);
  LatentMoments together(3), one(3), other(3);
  together.add(first), together.add(second);
  one.add(first), other.add(second);
  one.sums() += other.sums();  // as ranks do
  for (const LatentMoments& moments : {together, one}) {
    CHECK(relative_error(at::tensor(moments.mean()), all.mean(1)) < 1e-6);
    CHECK(relative_error(at::tensor(moments.deviation()), all.std(1, /*unbiased=*/false)) < 1e-6);
  }
  LatentMoments constant(2);
  constant.add(at::full({1, 2, 1, 2, 2}, 0.1F));
  CHECK(constant.deviation() == std::vector<double>{1e-6, 1e-6});
}
