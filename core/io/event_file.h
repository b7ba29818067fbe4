// TensorBoard's event files: records of protocol buffers (tensorflow's event.proto and summary.proto), each
// framed by masked CRC-32C sums (https://github.com/tensorflow/tensorboard, tensorboard/compat/proto and
// summary/writer).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace frameshard {

/// CRC-32C (https://www.rfc-editor.org/rfc/rfc3720#appendix-B.4).
uint32_t crc32c(std::string_view bytes);

/// Each call appends one record, which is with the system when it returns: a run that is killed loses none.
/// 74 where it cannot be written; what is in the file already stays readable.
class EventFile {
 public:
  /// Begins `directory`/events.out.tfevents.<seconds>.<host>.<pid>, and makes the directory.
  explicit EventFile(const std::filesystem::path& directory);
  EventFile(const EventFile&) = delete;
  EventFile& operator=(const EventFile&) = delete;
  ~EventFile();

  /// Numbers that belong to one step, kept as float32. TensorBoard groups tags by what is before a slash.
  void scalars(int64_t step, const std::vector<std::pair<std::string, double>>& values);
  /// Markdown, shown under Text.
  void text(int64_t step, const std::string& tag, const std::string& markdown);
  /// A picture, PNG bytes.
  void image(int64_t step, const std::string& tag, const std::string& png, int64_t width, int64_t height);

 private:
  /// Writes one serialised Event, whole or not at all.
  void record(const std::string& event);
  std::filesystem::path path_;
  int fd_ = -1;
};

}  // namespace frameshard
