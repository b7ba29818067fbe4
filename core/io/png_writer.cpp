#include "core/io/png_writer.h"

#include <string>
#include <string_view>

#include "core/error.h"
#include "core/io/atomic_file.h"

#ifdef FRAMESHARD_HAVE_PNG
#include <png.h>
#endif

namespace frameshard {

#ifdef FRAMESHARD_HAVE_PNG

bool can_write_png() {
  return true;
}

void write_png(const std::filesystem::path& path, int width, int height,
               std::span<const std::uint8_t> rgb24) {
  require(width > 0 && height > 0 && rgb24.size() == std::size_t{3} * width * height,
          "{}: a picture of {}x{} cannot have {} bytes", path.string(), width, height, rgb24.size());
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(width);
  image.height = static_cast<png_uint_32>(height);
  image.format = PNG_FORMAT_RGB;
  // Encoded in memory, so that libpng has no file errors to report and AtomicFile reports them all.
  std::string encoded(PNG_IMAGE_PNG_SIZE_MAX(image), '\0');
  png_alloc_size_t size = encoded.size();
  const int done = png_image_write_to_memory(&image, encoded.data(), &size, 0, rgb24.data(), 0, nullptr);
  const std::string message = image.message;
  png_image_free(&image);
  if (done == 0) fail(ExitCode::internal, "cannot encode {} as PNG: {}", path.string(), message);
  write_file_atomically(path, std::string_view(encoded.data(), size));
}

#else

bool can_write_png() {
  return false;
}

void write_png(const std::filesystem::path& path, int, int, std::span<const std::uint8_t>) {
  fail(ExitCode::config, "cannot write {}: this build has no PNG support; install libpng-dev and build again",
       path.string());
}

#endif

}  // namespace frameshard
