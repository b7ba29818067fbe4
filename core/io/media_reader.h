// Pictures and videos decoded frame by frame: what the readers of core/io share. Only for a build with libav.
#pragma once

#include <cstdint>
#include <istream>
#include <memory>
#include <string>

#include "core/io/libav.h"

namespace frameshard::libav {

/// What may be read, and how messages speak of it.
struct MediaWanted {
  bool videos = false;      ///< MP4, MOV, Matroska, WebM and AVI too, else pictures alone
  const char* noun = "";    ///< "picture"
  const char* advice = "";  ///< "a PNG or JPEG picture is wanted"
  int64_t most_pixels = 0;  ///< of a frame
};

enum class MediaKind {
  picture,    ///< of one frame
  animation,  ///< GIF and APNG: of one frame or more
  video,
};

/// The frames of one file, in the order in which they are shown. libav gets the bytes alone: it sees no name,
/// which it would take for a protocol, a pattern of numbers or the file's kind, and it opens no other file.
class MediaReader {
 public:
  /// `name` is for messages. 65 where the bytes are empty, of another kind, or cannot be decoded here.
  MediaReader(std::unique_ptr<std::istream> bytes, std::string name, const MediaWanted& wanted);
  MediaReader(const MediaReader&) = delete;
  MediaReader& operator=(const MediaReader&) = delete;

  /// False after the last frame, and where what follows is damaged: fail_damaged() then says why. 65 where a
  /// frame is too large.
  bool next(AVFrame& frame);
  /// Frames that the file holds whole, from its packets: reads on to the end or the first one that is cut
  /// off, without decoding. next() gives nothing after it.
  int64_t count_frames();
  MediaKind kind() const { return kind_; }
  bool damaged() const { return damage_ < 0; }
  /// 65 with libav's reason; `when` ("after 3 frames"; may be empty).
  [[noreturn]] void fail_damaged(const std::string& when = "") const;

 private:
  struct CloseInput {
    void operator()(AVFormatContext* context) const { avformat_close_input(&context); }
  };
  struct TooLarge {
    int width = 0, height = 0;
    int64_t most = 0;
  };
  static int small_buffer(AVCodecContext* codec, AVFrame* frame, int flags);
  void open_input();
  void open_decoder();
  void check_opened(int error);
  bool read_packet();
  void send_packet();
  void damage(int error);
  void check_size(int width, int height) const;

  // Destroyed from the last to the first: the bytes go after all that reads them.
  std::unique_ptr<std::istream> bytes_;
  std::string name_;
  MediaWanted wanted_;
  TooLarge refused_;
  MediaKind kind_ = MediaKind::picture;
  bool ended_ = false;
  int damage_ = 0;
  int stream_ = -1;
  int64_t packets_ = 0;
  Packet packet_;
  Avio avio_;
  std::unique_ptr<AVFormatContext, CloseInput> input_;
  Codec codec_;
};

}  // namespace frameshard::libav
