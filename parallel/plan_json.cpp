#include "parallel/plan_json.h"

#include "parallel/plan_costs.h"

namespace frameshard {
namespace {

Json split_json(const MeshShape& mesh, const AttentionShape& attention) {
  return {{"dp", mesh.dp},
          {"cfg", mesh.cfg},
          {"cp", mesh.cp},
          {"ulysses", attention.ulysses},
          {"ring", attention.ring}};
}

Json prediction_json(const Prediction& predicted) {
  return {{"step_seconds", predicted.step_seconds},
          {"exchange_share", predicted.exchange_share},
          {"request_seconds", predicted.request_seconds},
          {"total_seconds", predicted.total_seconds},
          {"speedup", predicted.speedup}};
}

Json machine_json(const PlanMachine& machine) {
  Json json = {{"ranks", machine.world},
               {"nodes", machine.nodes()},
               {"device", machine.device_name()},
               {"backend", machine.backend},
               {"threads_a_rank", machine.threads_per_rank}};
  json["interconnect"] = machine.nodes() > 1 ? Json(machine.network()) : Json(nullptr);
  json["wire"] = machine.wire.empty() ? Json(nullptr) : Json(machine.wire);
  json["speeds"] = machine.speeds.empty() ? Json(nullptr) : Json(machine.speeds);
  json["memory_bytes"] = machine.memory_bytes > 0 ? Json(machine.memory_bytes) : Json(nullptr);
  return json;
}

Json choice_json(const MeshChoice& choice) {
  Json json = split_json(choice.split.mesh, choice.split.attention);
  json.update(prediction_json(choice.predicted));
  json["memory_bytes"] = choice.costs.peak_bytes;
  json["fits"] = choice.fits;
  json["why_not"] = choice.why_not;
  return json;
}

Json bytes_json(const RunPlan& plan, const ModelFacts& model) {
  const VideoClass video = workload_of({plan.largest}, model).largest;
  Json list = Json::array();
  for (int rank = 0; rank < plan.mesh.cfg * plan.mesh.cp; ++rank) {
    const SentBytes sent = sent_bytes(plan.split(), video, model, rank);
    list.push_back(
        {{"rank", rank}, {"bytes_sent", sent.cp + sent.cfg}, {"cp_bytes", sent.cp}, {"cfg_bytes", sent.cfg}});
  }
  return list;
}

}  // namespace

Json plan_json(const RunPlan& plan, const MeshChoices& choices, const ModelFacts& model) {
  Json json = {{"model", model.name}, {"machine", machine_json(plan.machine)}};
  json["mesh"] = split_json(plan.mesh, plan.attention);
  json["video"] = {{"width", plan.largest.width},
                   {"height", plan.largest.height},
                   {"frames", plan.largest.num_frames},
                   {"steps", plan.largest.num_inference_steps},
                   {"guided", plan.largest.uses_guidance()}};
  json["videos"] = plan.videos;
  json["tokens"] = plan.tokens.sizes();
  json["heads"] = plan.heads.sizes();
  json["passes"] = plan.passes;
  const int64_t tiles = plan.decoding.tiles(plan.largest.height, plan.largest.width);
  json["decode"] = {{"ranks", plan.decoding.ranks}, {"tiles", tiles}};
  json["layer_bytes"] = plan.costs.layer_bytes;
  json["step_bytes"] = plan.costs.moved_bytes;
  json["step_operations"] = plan.costs.operations;
  json["bytes_a_rank"] = bytes_json(plan, model);
  json["memory"] = {{"peak_bytes", plan.costs.peak_bytes},
                    {"text_bytes", plan.costs.text_bytes},
                    {"denoise_bytes", plan.costs.denoise_bytes},
                    {"decode_bytes", plan.costs.decode_bytes}};
  json["predicted"] = prediction_json(plan.predicted);
  json["reasons"] = plan.reasons;
  json["warnings"] = plan.warnings;
  json["meshes"] = Json::array();
  for (const MeshChoice& choice : choices.meshes) json["meshes"].push_back(choice_json(choice));
  return json;
}

}  // namespace frameshard
