// Configurations, models and machines for the plan's tests.
#pragma once

#include <optional>
#include <vector>

#include "parallel/plan.h"

namespace frameshard::test {

inline RunConfig config_with(int requests = 1) {
  RunConfig config;
  config.request = RequestConfig{};
  if (requests > 1) config.request.reset(), config.requests.resize(size_t(requests));
  return config;
}
inline std::vector<RequestConfig*> requests_of(RunConfig& config) {
  std::vector<RequestConfig*> all;
  if (config.request) all.push_back(&*config.request);
  for (RequestConfig& request : config.requests) all.push_back(&request);
  return all;
}
struct Fixed {  // the others are auto
  std::optional<int64_t> cp{}, cfg{}, dp{}, ulysses{}, ring{};
};
inline RunConfig config_with(Fixed sizes, int requests = 1) {
  RunConfig config = config_with(requests);
  config.infer.diffusion = {.cp_size = {sizes.cp}, .cfg_size = {sizes.cfg}, .dp_size = {sizes.dp}};
  config.infer.attention = {.ulysses_size = {sizes.ulysses}, .ring_size = {sizes.ring}};
  return config;
}

inline ModelFacts facts_1_3b() {
  ModelFacts facts{
      .name = "Wan", .heads = 12, .head_dim = 128, .layers = 30, .ffn_dim = 8960, .latent_channels = 16};
  facts.vae_decoder_dim = 96, facts.vae_widest_dim = 192;
  facts.text_encoder_bytes = int64_t(11) << 30, facts.denoiser_bytes = int64_t(3) << 30,
  facts.vae_bytes = 500 << 20;
  facts.element_bytes = 2;
  return facts;
}
inline ModelFacts facts_14b() {
  ModelFacts facts = facts_1_3b();
  facts.heads = 40, facts.layers = 40, facts.ffn_dim = 13824;
  return facts;
}

inline PlanMachine cuda_machine(int world) {
  PlanMachine machine;
  machine.world = world, machine.device = "cuda", machine.backend = "nccl";
  return machine;
}

}  // namespace frameshard::test
