#include "models/training/train_state_files.h"

#include <charconv>

#include "core/text.h"

namespace frameshard {
namespace {

constexpr int64_t most_files = 1'000'000;

std::filesystem::path checked_json(const std::filesystem::path& folder) {
  if (!std::filesystem::is_regular_file(folder / state_json)) {
    fail(ExitCode::missing_file, "{}: no {}: not a training state, or one whose saving was interrupted",
         folder.string(), state_json);
  }
  return folder / state_json;
}

}  // namespace

std::string rank_file(int rank) {
  return fmt::format("rank-{:05}.safetensors", rank);
}

std::string piece_name(const std::string& kind, int64_t begin) {
  return fmt::format("{}@{}", kind, begin);
}

TrainStateFiles::TrainStateFiles(const std::filesystem::path& folder)
    : folder_(folder), json_(checked_json(folder)) {
  const int64_t files = json_.get_between("files", 1, most_files);
  for (int64_t file = 0; file < files; ++file) {
    files_.push_back(WeightFiles::open(folder / rank_file(int(file))));
    for (const auto& [name, entry] : files_.back().tensors()) add(size_t(file), entry);
  }
}

void TrainStateFiles::add(size_t file, const TensorEntry& entry) {
  const auto place = entry.name.rfind('@');
  const std::string number = place == std::string::npos ? "" : entry.name.substr(place + 1);
  int64_t begin = -1;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), begin);
  if (error != std::errc() || end != number.data() + number.size() || begin < 0 || entry.shape.size() != 1 ||
      !pieces_[entry.name.substr(0, place)].emplace(begin, Piece{file, entry}).second) {
    fail(ExitCode::bad_data, "{}: tensor \"{}\" is no piece of a training state, or is there twice",
         (folder_ / rank_file(int(file))).string(), one_line(entry.name));
  }
}

void TrainStateFiles::read(const std::string& kind, int64_t begin, const at::Tensor& destination) const {
  const int64_t end = begin + destination.numel();
  int64_t done = begin;
  const auto of_kind = pieces_.find(kind);
  const std::map<int64_t, Piece> none, &pieces = of_kind == pieces_.end() ? none : of_kind->second;
  auto at = pieces.upper_bound(begin);
  if (at != pieces.begin()) --at;
  for (; done < end && at != pieces.end() && at->first <= done; ++at) {
    const auto& [file, entry] = at->second;
    const int64_t high = std::min(end, at->first + entry.shape[0]);
    if (high <= done) continue;
    if (entry.dtype != destination.scalar_type()) {
      fail(ExitCode::bad_data,
           "{}: \"{}\" is {}, this run has {}; set train.precision as it was, or begin anew with "
           "output.overwrite",
           files_[file].files().front().string(), entry.name, dtype_to_safetensors(entry.dtype),
           dtype_to_safetensors(destination.scalar_type()));
    }
    at::Tensor target = destination.narrow(0, done - begin, high - done);
    if (target.numel() == entry.shape[0]) {
      files_[file].read_into(entry, target);
    } else {
      target.copy_(files_[file].read(entry.name).narrow(0, done - at->first, high - done));
    }
    done = high;
  }
  if (done < end) {
    fail(ExitCode::bad_data,
         "{}: damaged: elements {} to {} of {} are in no file; go on from an earlier state", folder_.string(),
         done, end, kind);
  }
}

}  // namespace frameshard
