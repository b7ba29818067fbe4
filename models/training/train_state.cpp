#include "models/training/train_state.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>

#include <c10/core/GradMode.h>

#include "core/io/atomic_file.h"
#include "core/io/run_directory.h"
#include "core/log.h"
#include "core/text.h"
#include "models/training/train_state_files.h"
#include "parallel/comm/settle.h"

namespace frameshard {
namespace {

namespace fs = std::filesystem;

using StateTensors = std::map<std::string, std::vector<at::Tensor>>;
using NamedShapes = std::vector<std::pair<std::string, std::vector<int64_t>>>;

// The step in a state's name, or -1 for other names.
int64_t step_of(const std::string& name) {
  int64_t step = -1;
  if (!name.starts_with("step-")) return -1;
  const char* last = name.data() + name.size();
  const auto [end, error] = std::from_chars(name.data() + 5, last, step);
  return error == std::errc() && end == last ? step : -1;
}

bool is_temporary(const std::string& name) {
  return name.starts_with(".step-") && name.ends_with(".tmp");
}

struct Found {
  std::vector<fs::path> states;  // newest first
  std::vector<fs::path> temporaries;
};

Found states_below(const fs::path& directory) {
  Found found;
  if (!fs::is_directory(directory)) return found;
  for (const auto& entry : fs::directory_iterator(directory)) {
    const std::string name = entry.path().filename().string();
    if (is_temporary(name)) found.temporaries.push_back(entry.path());
    if (step_of(name) >= 0 && entry.is_directory()) found.states.push_back(entry.path());
  }
  std::sort(found.states.begin(), found.states.end(), [](const fs::path& a, const fs::path& b) {
    return step_of(a.filename().string()) > step_of(b.filename().string());
  });
  return found;
}

bool is_complete(const fs::path& folder) {
  try {
    const TrainStateFiles files(folder);
    return true;
  } catch (const Error& error) {
    if (error.code() != ExitCode::bad_data && error.code() != ExitCode::missing_file) throw;
    log::warning("a training state is not complete and is passed over: {}", error.what());
    return false;
  }
}

// Under another name first, so that what is removed in part is never taken for a state.
void remove_state(const fs::path& folder) {
  const fs::path away = folder.parent_path() / fmt::format(".{}.old.tmp", folder.filename().string());
  fs::remove_all(away);
  fs::rename(folder, away);
  fs::remove_all(away);
}

NamedShapes named_shapes(const TrainedParameters& parameters) {
  const auto names = parameters.names();
  const auto shapes = parameters.shapes();
  NamedShapes all;
  for (size_t i = 0; i < names.size(); ++i) all.emplace_back(names[i], shapes[i]);
  return all;
}

StateTensors all_tensors(TrainedParameters& parameters, Optimizer& optimizer) {
  StateTensors all = optimizer.state(parameters.shards());
  for (const ParameterShard& shard : parameters.shards()) all["weights"].push_back(shard.parameter.detach());
  return all;
}

// This rank's pieces; where all ranks hold the same, an equal part of each.
NamedTensors own_pieces(const StateTensors& tensors, const TrainedParameters& parameters,
                        const Communicator& world) {
  const bool divided = parameters.zero() > 0;
  const int64_t part = divided ? 0 : world.rank(), parts = divided ? 1 : world.size();
  NamedTensors pieces;
  for (const auto& [kind, list] : tensors) {
    for (size_t i = 0; i < list.size(); ++i) {
      if (!list[i].defined()) continue;
      const int64_t size = list[i].numel(), begin = size * part / parts, end = size * (part + 1) / parts;
      if (begin == end) continue;
      pieces.emplace_back(piece_name(kind, parameters.shards()[i].begin + begin),
                          list[i].narrow(0, begin, end - begin));
    }
  }
  return pieces;
}

Json state_facts(const TrainPosition& position, const StateTensors& tensors,
                 const TrainedParameters& parameters, const Optimizer& optimizer, int files) {
  Json kinds = Json::array();
  for (const auto& [kind, list] : tensors) kinds.push_back(kind);
  return {
      {"step", position.step}, {"samples", position.samples},          {"config_hash", position.config_hash},
      {"more", position.more}, {"optimizer_steps", optimizer.steps()}, {"files", files},
      {"kinds", kinds},        {"weights", named_shapes(parameters)}};
}

void check_all_written(const fs::path& folder, int files) {
  for (int rank = 0; rank < files; ++rank) {
    if (fs::exists(folder / rank_file(rank))) continue;
    fail(ExitCode::io,
         "{}: rank {} has written {} to another disk; set output.directory to one that all "
         "hosts share",
         folder.string(), rank, rank_file(rank));
  }
}

void check_same_weights(const TrainStateFiles& files, const TrainedParameters& parameters) {
  const auto saved = files.json().get<NamedShapes>("weights"), wanted = named_shapes(parameters);
  const auto text = [](const NamedShapes& all, size_t i) {
    return i < all.size() ? fmt::format("\"{}\" {}", one_line(all[i].first), format_shape(all[i].second))
                          : std::string("none");
  };
  for (size_t i = 0; i < std::max(saved.size(), wanted.size()); ++i) {
    if (i < saved.size() && i < wanted.size() && saved[i] == wanted[i]) continue;
    fail(
        ExitCode::bad_data,
        "{}: of another model or method: weight {} of {} is {}, this run trains {} and this one is {}; begin "
        "anew with output.overwrite, or another name",
        files.folder().string(), i + 1, saved.size(), text(saved, i), wanted.size(), text(wanted, i));
  }
}

void check_same_precision(const TrainStateFiles& files, const StateTensors& tensors) {
  const auto kinds = files.json().get<std::vector<std::string>>("kinds");
  const bool saved = std::count(kinds.begin(), kinds.end(), "master") > 0,
             wanted = tensors.contains("master");
  if (saved == wanted) return;
  fail(ExitCode::bad_data,
       "{}: was trained with{} float32 master weights, this run is with{}; set "
       "train.precision as it was, or begin anew with output.overwrite",
       files.folder().string(), saved ? "" : "out", wanted ? "" : "out");
}

void read_all(const TrainStateFiles& files, const std::vector<ParameterShard>& shards,
              StateTensors& tensors) {
  const bool begins_ema = tensors.contains("ema") && !files.has("ema");
  for (auto& [kind, list] : tensors) {
    if (kind == "ema" && begins_ema) continue;
    for (size_t i = 0; i < shards.size(); ++i) {
      if (list[i].defined()) files.read(kind, shards[i].begin, list[i]);
    }
  }
  if (!begins_ema) return;
  for (size_t i = 0; i < shards.size(); ++i) {
    const bool has_master = tensors.contains("master") && tensors["master"][i].defined();
    tensors["ema"][i].copy_(has_master ? tensors["master"][i] : tensors["weights"][i]);
  }
}

void warn_of_ema(const TrainStateFiles& files, const StateTensors& tensors) {
  const bool wanted = tensors.contains("ema");
  if (wanted == files.has("ema")) return;
  log::warning("{}: {}", files.folder().string(),
               wanted ? "has no average of the weights (train.ema); it begins from the weights"
                      : "has an average of the weights, which this run drops: train.ema is 0");
}

}  // namespace

fs::path save_train_state(const fs::path& directory, const TrainPosition& position,
                          TrainedParameters& parameters, Optimizer& optimizer, Communicator& world) {
  const std::string name = fmt::format("step-{:08}", position.step);
  const fs::path folder = directory / name, temporary = directory / ("." + name + ".tmp");
  const bool first = world.rank() == 0;
  StateTensors tensors;
  try {
    settle(world, [&] {
      tensors = all_tensors(parameters, optimizer);
      if (!first) return;
      make_output_directory(directory);
      fs::remove_all(temporary);
      fs::create_directory(temporary);
    });
    settle(world, [&] {
      write_safetensors(temporary / rank_file(world.rank()), own_pieces(tensors, parameters, world));
    });
    settle(world, [&] {
      if (!first) return;
      check_all_written(temporary, world.size());
      const Json facts = state_facts(position, tensors, parameters, optimizer, world.size());
      write_file_atomically(temporary / state_json, facts.dump(1));
      if (fs::exists(folder)) remove_state(folder);
      fs::rename(temporary, folder);
      if (const int error = sync_directory(directory); error != 0) {
        fail(ExitCode::io, "cannot fsync {}: {}", directory.string(), std::strerror(error));
      }
    });
  } catch (...) {
    std::error_code ignored;
    if (first) fs::remove_all(temporary, ignored);
    throw;
  }
  return folder;
}

fs::path newest_train_state(const fs::path& directory) {
  for (const fs::path& folder : states_below(directory).states) {
    if (is_complete(folder)) return folder;
  }
  return {};
}

TrainPosition load_train_state(const fs::path& folder, TrainedParameters& parameters, Optimizer& optimizer,
                               Communicator& world) {
  TrainPosition position;
  settle(world, [&] {
    const c10::NoGradGuard no_grad;
    const TrainStateFiles files(folder);
    const JsonReader& json = files.json();
    check_same_weights(files, parameters);
    StateTensors tensors = all_tensors(parameters, optimizer);
    check_same_precision(files, tensors);
    position = {.step = json.get<int64_t>("step"),
                .samples = json.get<int64_t>("samples"),
                .config_hash = json.get<std::string>("config_hash"),
                .more = json.get<std::map<std::string, std::string>>("more")};
    read_all(files, parameters.shards(), tensors);
    optimizer.restore_steps(json.get<int64_t>("optimizer_steps"));
    if (world.rank() == 0) warn_of_ema(files, tensors);
  });
  parameters.publish();
  return position;
}

void prune_train_states(const fs::path& directory, int64_t keep) {
  const Found found = states_below(directory);
  for (const fs::path& left : found.temporaries) fs::remove_all(left);
  int64_t kept = 0;
  for (const fs::path& folder : found.states) {
    if (kept < keep && is_complete(folder)) {
      ++kept;
    } else {
      remove_state(folder);
    }
  }
}

}  // namespace frameshard
