// Where metrics go: a file that is replaced, or a port that is asked.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

namespace frameshard {

/// Used by one thread at a time.
class Exporter {
 public:
  virtual ~Exporter() = default;
  /// What readers get from now on. A file that cannot be written any more is a warning, once.
  virtual void publish(const std::string& text) = 0;
};

/// What is wrong with a target as a word of the command line; empty where it is a file or a port (0 to
/// 65535).
std::string target_fault(const std::string& target);

/// For digits alone a port of 127.0.0.1, 0 being any free one: which it is, is logged. 69 where it is taken,
/// and in a build without HTTP. Else a file, or the one that a link leads to: 74 where it cannot be written,
/// is the job's configuration, or something else than a regular file is there.
std::unique_ptr<Exporter> open_exporter(const std::string& target, const std::filesystem::path& config);

}  // namespace frameshard
