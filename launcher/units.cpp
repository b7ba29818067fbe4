// The videos of a job: where each goes, what an earlier run left of it, and that it can be written.
#include <set>
#include <span>

#include "core/error.h"
#include "core/io/file_kind.h"
#include "core/io/run_directory.h"
#include "core/io/video_info.h"
#include "core/io/video_writer.h"
#include "launcher/job.h"
#include "launcher/outputs.h"

namespace frameshard {
namespace {

// A build that cannot read videos takes the word of the file beside it, which says "on" where a video was
// decoded in tiles because it did not fit otherwise.
bool states(const std::filesystem::path& directory, const RunConfig& wanted) {
  try {
    RunConfig stated = load_run_config(directory / "run.yaml");
    if (wanted.lossy.vae_tiling == "auto") stated.lossy.vae_tiling = "auto";
    return config_hash(stated) == config_hash(wanted);
  } catch (const Error&) {
    return false;
  }
}

UnitState state_of(const Job& job, const Unit& unit) {
  const auto directory = job.unit_directory(unit);
  if (!has_complete_output(directory)) return UnitState::missing;
  const RunConfig config = job.unit_config(unit);
  if (!can_read_video()) return states(directory, config) ? UnitState::complete : UnitState::other;
  const auto video = read_video_info(directory / "video.mp4");
  if (!video) return UnitState::unusable;
  const auto hash = video->metadata.find("config_hash");
  if (hash == video->metadata.end() || hash->second != config_hash(config)) return UnitState::other;
  return video->frames == job.requests[unit.request].num_frames ? UnitState::complete : UnitState::unusable;
}

// A build without an encoder must not find that out after an hour of denoising. The file is never finished.
void check_encoder(const RequestConfig& request, const std::filesystem::path& directory, int fps) {
  VideoWriter(directory / "video.mp4",
              {.width = int(request.width), .height = int(request.height), .fps = fps, .metadata = {}});
}

// Never replaced silently, and never taken for what was asked for.
void refuse_other(const Job& job, const std::vector<UnitState>& found) {
  constexpr size_t most = 5;
  std::vector<std::string> names;
  for (size_t i = 0; i < found.size(); ++i) {
    if (found[i] == UnitState::other) names.push_back(job.unit_name(job.units[i]));
  }
  if (names.empty()) return;
  const size_t count = names.size();
  if (count > most) names.resize(most), names.push_back("...");
  fail(ExitCode::io,
       "{}: {} complete video{} of another configuration: {}; set output.overwrite=true to replace {}, or "
       "choose "
       "another output.directory or other ids",
       job.directory.string(), count, count == 1 ? " is" : "s are", fmt::join(names, ", "),
       count == 1 ? "it" : "them");
}

// Not found out when the work is done.
void check_places(const std::filesystem::path& directory, std::span<const char* const> names) {
  for (const char* name : names) {
    const auto file = directory / name;
    std::error_code ignored;
    const auto status = std::filesystem::status(file, ignored);
    if (!std::filesystem::exists(status) || std::filesystem::is_regular_file(status)) continue;
    fail(ExitCode::io,
         "{}: is {}, and a file of this name is to be written; take it away, or set output.directory",
         file.string(), kind_of_file(status));
  }
}

void refuse_complete(const std::filesystem::path& directory) {
  if (!has_complete_output(directory)) return;
  fail(ExitCode::io,
       "{}: a complete output is there and is kept; set output.overwrite=true or another output.directory",
       (directory / "video.mp4").string());
}

}  // namespace

bool Job::wanted(size_t unit) const {
  if (faults.contains(units[unit].request)) return false;
  return found.empty() || found[unit] == UnitState::missing || found[unit] == UnitState::unusable;
}

std::filesystem::path Job::unit_directory(const Unit& unit) const {
  const RequestConfig& request = requests[unit.request];
  const auto path = request.id.empty() ? directory : directory / request.id;
  return request.batch_size == 1 ? path : path / fmt::format("sample-{}", unit.sample);
}

std::string Job::unit_name(const Unit& unit) const {
  return unit_directory(unit).lexically_relative(directory).string();
}

RunConfig Job::unit_config(const Unit& unit) const {
  return one_video_config(config, requests[unit.request], unit.sample);
}

std::vector<UnitState> survey_outputs(const Job& job) {
  std::vector<UnitState> found;
  for (const Unit& unit : job.units) {
    const bool looked_at =
        job.keeps_complete() && !job.config.output.overwrite && !job.faults.contains(unit.request);
    found.push_back(looked_at ? state_of(job, unit) : UnitState::missing);
  }
  return found;
}

void prepare_outputs(const Job& job) {
  const bool keeps = !job.config.output.overwrite;
  refuse_other(job, job.found.empty() ? survey_outputs(job) : job.found);
  make_output_directory(job.directory);
  constexpr const char* list_files[] = {"results.jsonl", "queue.json"};
  if (job.is_list()) check_places(job.directory, list_files);
  std::set<std::pair<int64_t, int64_t>> checked;  // sizes
  for (size_t i = 0; i < job.units.size(); ++i) {
    if (!job.wanted(i)) continue;
    const Unit& unit = job.units[i];
    const auto directory = job.unit_directory(unit);
    if (keeps && !job.keeps_complete()) refuse_complete(directory);
    prepare_output_directory(directory);
    check_places(directory, video_files);
    const RequestConfig& request = job.requests[unit.request];
    if (checked.insert({request.width, request.height}).second) {
      check_encoder(request, directory, int(job.config.output.fps));
    }
  }
  remove_failure_reports(job.directory);
}

}  // namespace frameshard
