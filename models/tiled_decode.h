// Decoding in tiles that overlap and are blended, as diffusers' AutoencoderKLWan.tiled_decode does it: less
// memory, for a picture that is a little different.
//
// A tile is decoded over all of its frames before the next one, with the frames that its convolutions keep;
// its result goes to the CPU at once. So a device never holds more than one tile of activations: keeping the
// convolutions' frames of all tiles, to have the video's frames one after the other, would cost a third of
// what decoding the undivided picture does.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "models/parts.h"
#include "parallel/comm/communicator.h"
#include "parallel/tiles.h"

namespace frameshard {

/// A part of the picture, in pixels, that is final: [1, 3, F, area.height, area.width] in [-1, 1], float32 on
/// the CPU. Only valid during the call.
using FinishedPart = std::function<void(const Area& area, const at::Tensor& frames)>;

/// Blends tiles that come in the order of their numbers. Beside the tile that comes it holds the edges of a
/// row of them.
class TileBlender {
 public:
  /// `scale`: pixels of a latent along an axis.
  TileBlender(const TileGrid& grid, int64_t scale, FinishedPart finished);
  /// [1, 3, F, h, w] float32 on the CPU, not limited; its memory is used.
  void add(at::Tensor tile);

 private:
  TileGrid grid_;
  int64_t scale_, next_ = 0;
  FinishedPart finished_;
  std::vector<at::Tensor> above_;  // bottom edges of the row above, a column each
  at::Tensor left_;                // right edge of the tile before
};

/// Who decodes.
struct TileRanks {
  Communicator& group;
  std::span<const double> speeds{};  ///< of the group's ranks; empty: all alike
};

/// Latents as Vae::decode takes them, on every rank of the group -> on its first rank every part of the
/// picture, once. Tiles are dealt round by round, by area over speed (parallel/work_units.h); the result is
/// the same for any ranks. Collective. 80 on all ranks where the VAE makes a NaN or Inf.
void decode_tiled(const Vae& vae, const at::Tensor& latents, const Tiling& tiling, const TileRanks& ranks,
                  const FinishedPart& finished);

}  // namespace frameshard
