// Captions of the clips and pictures of a folder.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace frameshard {

/// A folder named "40_a red fox", as kohya's scripts have them: what is in it counts 40 times and, where it
/// has no caption, is called "a red fox".
struct RepeatFolder {
  int64_t repeats = 1;
  std::string caption;
};

/// Of the innermost folder above `file`, a path below the dataset's folder, that is named so; repeats 1 and
/// no caption where none is. 65 where the number is above a million: a date, for instance.
RepeatFolder repeat_folder(const std::filesystem::path& file);

/// Captions of the files of a folder, by their paths below it.
class Captions {
 public:
  /// `files`: the clips and pictures; `metadata`: the files metadata.jsonl, whose lines are {"file_name": a
  /// path below the file's own folder, "caption" or "text" or "prompt": ...}. 65 where a line does not parse,
  /// names a file twice, outside its folder, or that is not among `files`.
  Captions(std::filesystem::path folder, const std::vector<std::filesystem::path>& files,
           const std::vector<std::filesystem::path>& metadata);
  /// From the .txt of the same name beside it, else metadata.jsonl, else the name of its repeat folder.
  /// Without blanks around; nothing where it has none or an empty one. 65 where it is no UTF-8 text.
  std::optional<std::string> of(const std::filesystem::path& file) const;

 private:
  void read_metadata(const std::filesystem::path& metadata, const std::vector<std::filesystem::path>& files);

  std::filesystem::path folder_;
  std::map<std::filesystem::path, std::string> metadata_;
};

}  // namespace frameshard
