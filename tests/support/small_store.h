// A few items with captions, and what tests look at when ranks encode them.
#pragma once

#include <fstream>
#include <map>
#include <optional>

#include "core/rng.h"
#include "models/training/sample_store.h"
#include "parallel/comm/text.h"
#include "tests/support/rank_test.h"
#include "tests/support/scratch.h"

namespace frameshard::testing {

inline constexpr size_t clip_count = 7;

/// Clips of noise in three sizes, of which 5 shows what 2 does, and 4 has the caption of 1.
class NoiseClips final : public Dataset {
 public:
  explicit NoiseClips(std::optional<size_t> corrupt = {}, std::optional<size_t> nan = {})
      : corrupt_(corrupt), nan_(nan) {
    constexpr ClipSize sizes[] = {{5, 16, 16}, {1, 32, 16}, {9, 16, 32}};
    for (size_t i = 0; i < clip_count; ++i) {
      const size_t shown = i == 5 ? 2 : i;
      items_.push_back({.name = fmt::format("clip {}", i),
                        .caption = fmt::format("a red circle {}", i == 4 ? 1 : i),
                        .size = sizes[shown % 3],
                        .identity = 100 + shown});
    }
  }
  const std::vector<DataItem>& items() const override { return items_; }
  const std::vector<SkippedItem>& skipped() const override { return none_; }
  at::Tensor frames(size_t item) const override {
    ++asked;
    if (item == corrupt_) fail(ExitCode::bad_data, "clip {}: truncated at byte 7", item);
    const ClipSize& size = items_[item].size;
    at::Tensor frames =
        initial_noise({1, 3, size.frames, size.height, size.width}, items_[item].identity).clamp(-1, 1);
    if (item == nan_) frames[0][0][0][0][0] = NAN;
    return frames;
  }
  mutable int asked = 0;

 private:
  std::vector<DataItem> items_;
  std::vector<SkippedItem> none_;
  std::optional<size_t> corrupt_, nan_;
};

/// A directory that all ranks see; removed at the end.
class SharedDirectory {
 public:
  explicit SharedDirectory(Communicator& comm) : comm_(comm) {
    if (comm.rank() == 0) scratch_.emplace();
    path_ = gather_texts(comm, scratch_ ? scratch_->path().string() : "").front();
  }
  ~SharedDirectory() {
    // Not after a failure: ranks that failed do not come.
    if (std::uncaught_exceptions() == 0) comm_.barrier();
  }
  SharedDirectory(const SharedDirectory&) = delete;
  SharedDirectory& operator=(const SharedDirectory&) = delete;

  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  /// Between two barriers: what one rank does to the files.
  void change(const std::function<void()>& action) const {
    comm_.barrier();
    if (comm_.rank() == 0) action();
    comm_.barrier();
  }

 private:
  Communicator& comm_;
  std::optional<frameshard::test::Scratch> scratch_;
  std::filesystem::path path_;
};

inline StoreOptions options_for(const std::filesystem::path& directory) {
  return {.directory = directory, .max_sequence_length = 24, .empty_caption = true};
}

inline std::map<std::string, std::string> contents_of(const std::filesystem::path& directory) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    files[entry.path().filename().string()] = frameshard::test::contents(entry.path());
  }
  return files;
}

inline std::vector<std::string> with_prefix(const std::map<std::string, std::string>& files,
                                            const std::string& prefix) {
  std::vector<std::string> names;
  for (const auto& [name, content] : files) {
    if (name.starts_with(prefix)) names.push_back(name);
  }
  return names;
}

inline void flip_last_byte(const std::filesystem::path& file) {
  std::fstream in(file, std::ios::binary | std::ios::in | std::ios::out);
  in.seekg(-1, std::ios::end);
  const char last = char(in.get() ^ 1);
  in.seekp(-1, std::ios::end);
  in.put(last);
}

inline double sum_over(Communicator& comm, int mine) {
  double sum = 0;
  for (const auto& each : gather_numbers(comm, {double(mine)})) sum += each[0];
  return sum;
}

}  // namespace frameshard::testing
