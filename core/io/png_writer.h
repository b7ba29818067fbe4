// Single pictures as PNG files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>

namespace frameshard {

/// False in a build without libpng.
bool can_write_png();

/// Writes one picture of `width` x `height` pixels, rows from the top, three bytes (R, G, B) a pixel, no
/// padding. The file appears only when complete (AtomicFile). Fails with ExitCode::io when it cannot be
/// written, ExitCode::internal when the sizes do not fit, ExitCode::config in a build without libpng.
void write_png(const std::filesystem::path& path, int width, int height, std::span<const std::uint8_t> rgb24);

}  // namespace frameshard
