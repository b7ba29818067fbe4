#include "launcher/observe/status.h"

#include "core/io/json_file.h"

namespace frameshard {
namespace {

// Calls `visit` with the name and the member of each field but `busy`, which may be missing.
template <class Status, class Visit>
void each_field(Status& status, Visit visit) {
  visit("rank", status.rank);
  visit("replica", status.replica);
  visit("host", status.host);
  visit("device", status.device);
  visit("phase", status.phase);
  visit("step", status.step);
  visit("steps", status.steps);
  visit("step_seconds", status.step_seconds);
  visit("step_median_seconds", status.step_median_seconds);
  visit("steps_total", status.steps_total);
  visit("steps_planned", status.steps_planned);
  visit("videos_done", status.videos_done);
  visit("videos_failed", status.videos_failed);
  visit("cp_bytes", status.cp_bytes);
  visit("cfg_bytes", status.cfg_bytes);
  visit("bytes_per_second", status.bytes_per_second);
  visit("memory_bytes", status.memory_bytes);
  visit("memory_peak_bytes", status.memory_peak_bytes);
}

}  // namespace

std::string to_text(const RankStatus& status) {
  Json json;
  each_field(status, [&](const char* name, const auto& value) { json[name] = value; });
  if (status.busy) json["busy"] = *status.busy;
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

RankStatus status_from(const std::string& text) {
  const Json json = Json::parse(text);
  RankStatus status;
  each_field(status, [&](const char* name, auto& value) { json.at(name).get_to(value); });
  if (json.contains("busy")) status.busy = json["busy"].get<double>();
  return status;
}

}  // namespace frameshard
