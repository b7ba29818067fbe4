// From RGB pictures to H.264: the encoder and the colour conversion in front of it. Only for a build with
// libav.
#pragma once

#include <string>

#include "core/io/libav.h"
#include "core/io/video_writer.h"

namespace frameshard::libav {

/// Opens the best H.264 encoder that works here and takes `format`; `path` is the video's, for messages.
/// Fails with ExitCode::config where there is none.
Codec open_any_encoder(const std::string& path, const VideoFormat& format);

/// The conversion from RGB to BT.709 in video range.
Scaler make_scaler(int width, int height);

/// A frame with room for its pixels.
Frame make_frame(AVPixelFormat pixels, int width, int height);

}  // namespace frameshard::libav
