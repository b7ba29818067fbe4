#include "core/io/event_file.h"

#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <system_error>

#include <fcntl.h>
#include <unistd.h>

#include "core/error.h"
#include "core/host.h"

namespace frameshard {
namespace {

// The wire format of protocol buffers (https://protobuf.dev/programming-guides/encoding): each field is a
// number and a type, then a varint, 4 or 8 bytes, or a length and bytes.
class Message {
 public:
  Message& varint(int field, uint64_t value) {
    put_varint(uint64_t(field) << 3);
    put_varint(value);
    return *this;
  }
  Message& float64(int field, double value) {
    put_varint(uint64_t(field) << 3 | 1);
    put_little_endian(bytes_, std::bit_cast<uint64_t>(value));
    return *this;
  }
  Message& float32(int field, float value) {
    put_varint(uint64_t(field) << 3 | 5);
    put_little_endian(bytes_, std::bit_cast<uint32_t>(value));
    return *this;
  }
  Message& bytes(int field, std::string_view value) {
    put_varint(uint64_t(field) << 3 | 2);
    put_varint(value.size());
    bytes_.append(value);
    return *this;
  }
  Message& message(int field, const Message& value) { return bytes(field, value.bytes_); }
  const std::string& serialized() const { return bytes_; }

  template <class Unsigned>
  static void put_little_endian(std::string& to, Unsigned value) {
    for (size_t i = 0; i < sizeof value; ++i) to.push_back(char(value >> 8 * i & 0xff));
  }

 private:
  void put_varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) bytes_.push_back(char(value | 0x80));
    bytes_.push_back(char(value));
  }
  std::string bytes_;
};

constexpr std::array<uint32_t, 256> crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
    table[byte] = crc;
  }
  return table;
}

// So that the sum of data that holds sums is not a special value (TFRecord's masked_crc32c).
uint32_t masked(uint32_t crc) {
  return std::rotr(crc, 15) + 0xa282ead8u;
}

// Event: wall_time 1, step 2, file_version 3, summary 5.
Message event() {
  const std::chrono::duration<double> now = std::chrono::system_clock::now().time_since_epoch();
  return Message().float64(1, now.count());
}

// Summary: repeated value 1. Summary.Value: tag 1, simple_value 2, image 4, tensor 8, metadata 9.
std::string event(int64_t step, const Message& summary) {
  return event().varint(2, uint64_t(step)).message(5, summary).serialized();
}

std::string reason(int error) {
  return std::generic_category().message(error);
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  static constexpr std::array<uint32_t, 256> table = crc_table();
  uint32_t crc = ~0u;
  for (const char byte : bytes) crc = crc >> 8 ^ table[(crc ^ uint8_t(byte)) & 0xff];
  return ~crc;
}

EventFile::EventFile(const std::filesystem::path& directory) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);  // where it fails, so does what follows
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(now).count();
  path_ = directory / fmt::format("events.out.tfevents.{:010}.{}.{}", seconds, host_name(), getpid());
  fd_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (fd_ < 0) fail(ExitCode::io, "cannot create the event file {}: {}", path_.string(), reason(errno));
  try {
    record(event().bytes(3, "brain.Event:2").serialized());
  } catch (const Error&) {
    close(fd_);
    throw;
  }
}

EventFile::~EventFile() {
  close(fd_);
}

void EventFile::scalars(int64_t step, const std::vector<std::pair<std::string, double>>& values) {
  Message summary;
  for (const auto& [tag, value] : values) {
    summary.message(1, Message().bytes(1, tag).float32(2, float(value)));
  }
  record(event(step, summary));
}

void EventFile::text(int64_t step, const std::string& tag, const std::string& markdown) {
  // SummaryMetadata: plugin_data 1 {plugin_name 1}. TensorProto: dtype 1, tensor_shape 2 {dim 2 {size 1}},
  // string_val 8; DT_STRING is 7.
  const Message metadata = Message().message(1, Message().bytes(1, "text"));
  const Message shape = Message().message(2, Message().varint(1, 1));
  const Message tensor = Message().varint(1, 7).message(2, shape).bytes(8, markdown);
  record(event(step, Message().message(1, Message().bytes(1, tag).message(8, tensor).message(9, metadata))));
}

void EventFile::image(int64_t step, const std::string& tag, const std::string& png, int64_t width,
                      int64_t height) {
  // Summary.Image: height 1, width 2, colorspace 3 (3: RGB), encoded_image_string 4.
  const Message image =
      Message().varint(1, uint64_t(height)).varint(2, uint64_t(width)).varint(3, 3).bytes(4, png);
  record(event(step, Message().message(1, Message().bytes(1, tag).message(4, image))));
}

// A record: its length (8 bytes), the length's sum, the event, the event's sum.
void EventFile::record(const std::string& event) {
  std::string bytes;
  Message::put_little_endian(bytes, uint64_t(event.size()));
  Message::put_little_endian(bytes, masked(crc32c(bytes)));
  bytes += event;
  Message::put_little_endian(bytes, masked(crc32c(event)));
  const off_t before = lseek(fd_, 0, SEEK_END);
  for (size_t written = 0; written < bytes.size();) {
    const ssize_t now = write(fd_, bytes.data() + written, bytes.size() - written);
    if (now < 0 && errno == EINTR) continue;
    if (now <= 0) {
      const int error = now < 0 ? errno : EIO;
      // Readers stop for good at a record that is cut off. That this fails too changes nothing.
      static_cast<void>(ftruncate(fd_, before) == 0);
      fail(ExitCode::io, "cannot write to the event file {}: {}", path_.string(), reason(error));
    }
    written += size_t(now);
  }
}

}  // namespace frameshard
