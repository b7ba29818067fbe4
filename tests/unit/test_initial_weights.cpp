// What a model begins with that is trained from nothing.
#include <cmath>
#include <map>

#include <c10/core/GradMode.h>

#include "core/rng.h"
#include "models/training/initial_weights.h"
#include "models/wan/text_umt5.h"
#include "models/wan/vae.h"
#include "tests/support/catch.h"

using namespace frameshard;

namespace {

const at::Device cpu(at::kCPU);

struct Model {
  Linear convolution, wide, q, k, joined;
  at::Tensor norm, norm_bias, gamma, table;
  WeightList list;

  Model() {
    list.add_layer("convolution", {32, 4, 3, 3, 3}, convolution);
    list.add_layer("wide", {64, 400}, wide);
    list.add_layer("to_q", {40, 25}, q);
    list.add_layer("to_k", {24, 25}, k);
    list.stack({&q, &k}, joined);
    list.add("norm2.weight", {8}, norm);
    list.add("norm2.bias", {8}, norm_bias);
    list.add("resnets.0.norm1.gamma", {8, 1, 1, 1}, gamma);
    list.add_float32("scale_shift_table", {1, 6, 100}, table);
  }
  explicit Model(uint64_t seed, at::ScalarType dtype = at::kFloat) : Model() {
    initialise_weights(list, dtype, cpu, seed);
  }
};

// Within the bound, and as far from 0 as uniform numbers are.
void check_uniform(const at::Tensor& weight, double inputs) {
  const double bound = 1 / std::sqrt(inputs), deviation = bound / std::sqrt(3.0);
  CHECK(weight.abs().max().item<double>() <= bound);
  CHECK(weight.abs().max().item<double>() > 0.8 * bound);
  CHECK(std::abs(weight.square().mean().sqrt().item<double>() / deviation - 1) < 0.35);
}

void check_normal(const at::Tensor& weight, double deviation) {
  CHECK(std::abs(weight.std().item<double>() / deviation - 1) < 0.15);
  CHECK(weight.abs().max().item<double>() > 2 * deviation);
}

}  // namespace

TEST_CASE("layers begin as PyTorch's do") {
  const Model model(1);
  check_uniform(model.convolution.weight, 4 * 27);
  check_uniform(model.convolution.bias, 4 * 27);
  check_uniform(model.wide.weight, 400);
  check_uniform(model.wide.bias, 400);
  CHECK(at::equal(model.norm, at::ones({8})));
  CHECK(at::equal(model.norm_bias, at::zeros({8})));
  CHECK(at::equal(model.gamma, at::ones({8, 1, 1, 1})));
  check_normal(model.table, 0.1);
}

TEST_CASE("parts of a whole begin by the inputs of each") {
  const Model model(1);
  REQUIRE(model.joined.weight.sizes() == at::IntArrayRef({64, 25}));
  CHECK(at::equal(model.joined.weight, at::cat({model.q.weight, model.k.weight})));
  CHECK(at::equal(model.joined.bias, at::cat({model.q.bias, model.k.bias})));
  for (const Linear* part : {&model.q, &model.k}) {
    check_uniform(part->weight, 25);
    check_uniform(part->bias, 25);
  }
}

TEST_CASE("the same seed begins with the same weights, in each dtype") {
  const Model one(5), same(5), other(6), rounded(5, at::kBFloat16);
  for (size_t i = 0; i < one.list.slots().size(); ++i) {
    const WeightSlot& slot = one.list.slots()[i];
    const auto of = [&](const Model& model) { return *model.list.slots()[i].target; };
    INFO(slot.name);
    CHECK(at::equal(of(one), of(same)));
    CHECK(of(rounded).scalar_type() == (slot.keep_float32 ? at::kFloat : at::kBFloat16));
    CHECK(at::equal(of(one).to(of(rounded).scalar_type()), of(rounded)));
    CHECK(at::equal(of(one), of(other)) == (slot.name.find("norm") != std::string::npos));
  }
}

TEST_CASE("a weight of no known kind is refused") {
  at::Tensor vector;
  WeightList list;
  list.add("something", {3}, vector);
  CHECK_THROWS_AS(initialise_weights(list, at::kFloat, cpu, 0), Error);
}

TEST_CASE("umT5 begins as transformers begins it") {
  const wan::Umt5 encoder({.width = 64,
                           .ffn_dim = 256,
                           .head_dim = 16,
                           .heads = 8,
                           .layers = 1,
                           .vocabulary = 100,
                           .buckets = 32,
                           .max_distance = 128,
                           .eps = 1e-6});
  initialise_weights(encoder.weights(), at::kFloat, cpu, 1);
  const std::map<std::string, double> deviations{
      {"shared.weight", 1},
      {"encoder.block.0.layer.0.SelfAttention.q.weight", 1 / std::sqrt(64.0 * 16)},
      {"encoder.block.0.layer.0.SelfAttention.k.weight", 1 / std::sqrt(64.0)},
      {"encoder.block.0.layer.0.SelfAttention.v.weight", 1 / std::sqrt(64.0)},
      {"encoder.block.0.layer.0.SelfAttention.o.weight", 1 / std::sqrt(128.0)},
      {"encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", 1 / std::sqrt(64.0)},
      {"encoder.block.0.layer.1.DenseReluDense.wi_0.weight", 1 / std::sqrt(64.0)},
      {"encoder.block.0.layer.1.DenseReluDense.wi_1.weight", 1 / std::sqrt(64.0)},
      {"encoder.block.0.layer.1.DenseReluDense.wo.weight", 1 / std::sqrt(256.0)}};
  size_t found = 0;
  for (const WeightSlot& slot : encoder.weights().slots()) {
    INFO(slot.name);
    const auto deviation = deviations.find(slot.name);
    if (deviation != deviations.end()) {
      ++found;
      check_normal(*slot.target, deviation->second);
    } else {
      CHECK(at::equal(*slot.target, at::ones({64})));
    }
  }
  CHECK(found == deviations.size());
}

TEST_CASE("an autoencoder from nothing makes pictures, not noise beyond all limits") {
  const c10::NoGradGuard no_grad;
  const wan::WanVae vae({.encoder_dim = 8,
                         .decoder_dim = 8,
                         .latent_channels = 4,
                         .residual_blocks = 1,
                         .multipliers = {1, 2, 4, 4},
                         .halves_time = {false, true, true},
                         .mean = {0, 0, 0, 0},
                         .deviation = {1, 1, 1, 1}});
  initialise_weights(vae.weights(), at::kFloat, cpu, 2);
  const at::Tensor moments = vae.encode(initial_noise({1, 3, 5, 16, 16}, 1).clamp(-1, 1));
  REQUIRE(moments.isfinite().all().item<bool>());
  CHECK(moments.abs().max().item<double>() < 3);
  vae.decode_unlimited(initial_noise({1, 4, 2, 2, 2}, 2), [](const at::Tensor& frames) {
    REQUIRE(frames.isfinite().all().item<bool>());
    CHECK(frames.abs().max().item<double>() < 3);
    CHECK(frames.std().item<double>() > 1e-3);
  });
}
