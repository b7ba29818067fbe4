#include "launcher/manifest.h"

#include <fstream>
#include <set>
#include <sstream>

#include "core/error.h"
#include "core/io/atomic_file.h"
#include "core/io/json_file.h"
#include "core/io/text_file.h"

namespace frameshard {
namespace {

using Key = std::pair<std::string, int64_t>;  // id, sample

Key key_of(const Job& job, const Unit& unit) {
  return {job.requests[unit.request].id, unit.sample};
}

// A torn or foreign line has no key.
std::optional<Key> key_of(const Json& line) {
  try {
    return Key{line.at("id").get<std::string>(), line.value("sample", int64_t{0})};
  } catch (const nlohmann::json::exception&) {
    return std::nullopt;
  }
}

// The lines that stay as they are; the keys of those of complete videos are taken from `missing`.
std::string lines_to_keep(const Job& job, std::map<Key, size_t>& missing, const std::string& old) {
  std::set<Key> ours;
  for (const Unit& unit : job.units) ours.insert(key_of(job, unit));
  std::string kept;
  std::istringstream in(old);
  for (std::string line; std::getline(in, line);) {
    const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    const auto key = json.is_object() ? key_of(json) : std::nullopt;
    if (!key) continue;
    if (ours.contains(*key)) {
      const auto unit = missing.find(*key);
      const bool done =
          unit != missing.end() && json.value("status", Json()) == "done" &&
          json.value("config_hash", Json()) == config_hash(job.unit_config(job.units[unit->second]));
      if (!done) continue;
      missing.erase(unit);
    }
    kept += line + "\n";
  }
  return kept;
}

std::string read_whole(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

std::string result_line(const Job& job, const Unit& unit, const UnitResult& result) {
  const RequestConfig& request = job.requests[unit.request];
  Json line = {{"id", request.id}};
  if (request.batch_size > 1) line["sample"] = unit.sample;
  line["status"] = result.failure ? "failed" : "done";
  line["video"] = result.failure ? Json(nullptr) : Json((job.unit_directory(unit) / "video.mp4").string());
  line["seconds"] = result.seconds ? Json(*result.seconds) : Json(nullptr);
  line["replica"] = result.replica ? Json(*result.replica) : Json(nullptr);
  line["config_hash"] = config_hash(job.unit_config(unit));
  if (result.failure) {
    line["code"] = int(result.failure->code);
    line["message"] = result.failure->message;
  }
  return line.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Manifest::Manifest(const Job& job) : file_(job.directory / "results.jsonl") {
  std::map<Key, size_t> missing;  // complete videos without a line
  for (size_t i = 0; i < job.units.size(); ++i) {
    if (job.found[i] == UnitState::complete) missing.emplace(key_of(job, job.units[i]), i);
  }
  const std::string old = read_whole(file_);
  std::string text = lines_to_keep(job, missing, old);
  for (const auto& [key, unit] : missing) text += result_line(job, job.units[unit], {}) + "\n";
  for (const Unit& unit : job.units) {
    const auto fault = job.faults.find(unit.request);
    if (fault == job.faults.end()) continue;
    text += result_line(job, unit, {.failure = Failure{fault->second.code, fault->second.message}}) + "\n";
  }
  if (text != old) write_file_atomically(file_, text);
}

void Manifest::append(const std::string& line) const {
  append_line(file_, line);
}

}  // namespace frameshard
