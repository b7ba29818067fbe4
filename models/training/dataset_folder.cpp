#include <algorithm>
#include <cctype>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/hash.h"
#include "core/io/clip_reader.h"
#include "core/text.h"
#include "models/training/buckets.h"
#include "models/training/captions.h"
#include "models/training/dataset.h"

namespace frameshard {
namespace {

namespace fs = std::filesystem;

constexpr const char* kEndings[] = {".mp4", ".mkv", ".webm", ".mov",  ".avi", ".gif",
                                    ".png", ".jpg", ".jpeg", ".webp", ".bmp"};
constexpr size_t kMostNamed = 5;  // items, in a message

/// For messages and records: one line of UTF-8.
std::string shown(const fs::path& file) {
  constexpr size_t longest = 4096;
  return one_line(file.generic_string(), longest);
}

std::string and_more(size_t all) {
  return all > kMostNamed ? fmt::format(" and {} more", all - kMostNamed) : "";
}

/// Paths below a folder, sorted.
struct Listing {
  std::vector<fs::path> clips, metadata;
};

bool is_clip(const fs::path& file) {
  std::string ending = file.extension().string();
  for (char& c : ending) c = char(std::tolower(static_cast<unsigned char>(c)));
  return std::find(std::begin(kEndings), std::end(kEndings), ending) != std::end(kEndings);
}

/// What is hidden (".thumbnails", "._clip.mp4") is left alone; links to folders are not followed.
Listing list_folder(const fs::path& folder) try {
  Listing listing;
  for (fs::recursive_directory_iterator entry(folder), end; entry != end; ++entry) {
    const fs::path relative = entry->path().lexically_relative(folder);
    const bool hidden = relative.filename().string().starts_with(".");
    if (entry->is_directory()) {
      if (hidden) entry.disable_recursion_pending();
    } else if (relative.filename() == "metadata.jsonl") {
      listing.metadata.push_back(relative);
    } else if (!hidden && is_clip(relative)) {
      listing.clips.push_back(relative);
    }
  }
  std::sort(listing.clips.begin(), listing.clips.end());
  std::sort(listing.metadata.begin(), listing.metadata.end());
  return listing;
} catch (const fs::filesystem_error& error) {
  fail(ExitCode::io, "{}: cannot be listed: {}", folder.string(), error.what());
}

uint64_t identity_of(const fs::path& file, const ClipSize& size) {
  const std::string text = fmt::format(" at {}x{}x{}", size.frames, size.height, size.width);
  return fnv1a(text, file_fnv1a(file));
}

class FolderDataset : public Dataset {
 public:
  FolderDataset(const fs::path& folder, const DataConfig& config, const DatasetOptions& options);
  const std::vector<DataItem>& items() const override { return items_; }
  const std::vector<SkippedItem>& skipped() const override { return skipped_; }
  at::Tensor frames(size_t item) const override;

 private:
  std::vector<std::string> captions(const fs::path& folder, const Listing& listing, const DataConfig& config,
                                    const DatasetOptions& options) const;
  std::string add(const fs::path& file, const DataConfig& config, DataItem item);
  void check_some(const fs::path& folder) const;

  std::vector<DataItem> items_;
  std::vector<SkippedItem> skipped_;
  std::vector<fs::path> files_;
};

FolderDataset::FolderDataset(const fs::path& folder, const DataConfig& config,
                             const DatasetOptions& options) {
  if (std::error_code ignored; !fs::is_directory(folder, ignored)) {
    fail(ExitCode::missing_file, "{}: no such folder; videos or pictures with captions are wanted in it",
         folder.string());
  }
  const Listing listing = list_folder(folder);
  if (listing.clips.empty()) {
    fail(ExitCode::bad_data, "{}: holds no video or picture ({})", folder.string(), fmt::join(kEndings, " "));
  }
  const auto texts = captions(folder, listing, config, options);
  for (size_t i = 0; i < listing.clips.size(); ++i) {
    if (options.most_items > 0 && int64_t(items_.size()) == options.most_items) break;
    const fs::path& file = listing.clips[i];
    DataItem item{.name = shown(file), .caption = texts[i], .prior = options.prior, .size = {}};
    item.repeats = config.repeats * repeat_folder(file).repeats;
    const std::string name = item.name, reason = add(folder / file, config, std::move(item));
    if (reason.empty()) continue;
    if (options.fail_on_bad_item) {
      fail(ExitCode::bad_data, "{}: {} {} (train.fail_on_bad_item)", folder.string(), name, reason);
    }
    skipped_.push_back({name, reason});
  }
  check_some(folder);
}

/// One for each clip.
std::vector<std::string> FolderDataset::captions(const fs::path& folder, const Listing& listing,
                                                 const DataConfig& config,
                                                 const DatasetOptions& options) const {
  if (!options.caption.empty()) return std::vector(listing.clips.size(), options.caption);
  const Captions known(folder, listing.clips, listing.metadata);
  std::vector<std::string> texts, missing;
  for (const fs::path& file : listing.clips) {
    const auto text = known.of(file);
    if (!text) missing.push_back(shown(file));
    texts.push_back(text.value_or(""));
  }
  if (missing.empty() || config.missing_captions == "empty") return texts;
  const std::span first(missing.data(), std::min(missing.size(), kMostNamed));
  fail(ExitCode::bad_data,
       "{}: {} of {} videos and pictures have no caption: {}{}; write NAME.txt beside each, or "
       "metadata.jsonl, or set data.missing_captions=empty",
       folder.string(), missing.size(), listing.clips.size(), fmt::join(first, ", "),
       and_more(missing.size()));
}

/// The reason for which it was not added; empty if it was.
std::string FolderDataset::add(const fs::path& file, const DataConfig& config, DataItem item) {
  if (item.repeats == 0) return "is in a folder whose name says 0 times";
  try {
    const SizeChoice choice = choose_size(clip_info(file), config);
    if (!choice.size) return choice.reason;
    item.size = *choice.size;
    item.identity = identity_of(file, item.size);
  } catch (const Error& error) {
    const bool of_the_file = error.code() == ExitCode::bad_data || error.code() == ExitCode::missing_file ||
                             error.code() == ExitCode::io;
    if (!of_the_file) throw;
    return fmt::format("cannot be used: {}", error.what());
  }
  items_.push_back(std::move(item));
  files_.push_back(file);
  return "";
}

void FolderDataset::check_some(const fs::path& folder) const {
  if (!items_.empty()) return;
  std::vector<std::string> reasons;
  for (const auto& [name, reason] : skipped_) {
    if (reasons.size() < kMostNamed) reasons.push_back(name + " " + reason);
  }
  fail(ExitCode::bad_data, "{}: none of its {} videos and pictures can be trained on: {}{}", folder.string(),
       skipped_.size(), fmt::join(reasons, "; "), and_more(skipped_.size()));
}

at::Tensor FolderDataset::frames(size_t item) const {
  const ClipSize& size = items_.at(item).size;
  const ClipWanted wanted{.frames = size.frames, .height = size.height, .width = size.width};
  const at::Tensor bytes = read_clip(files_.at(item), wanted).permute({1, 0, 2, 3}).unsqueeze(0).contiguous();
  return bytes.to(at::kFloat).div_(127.5).sub_(1);
}

}  // namespace

DatasetPtr open_folder(const fs::path& folder, const DataConfig& config, const DatasetOptions& options) {
  return std::make_unique<FolderDataset>(folder, config, options);
}

}  // namespace frameshard
