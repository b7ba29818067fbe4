#include "models/tiled_decode.h"

#include <algorithm>
#include <limits>
#include <optional>

#include "core/error.h"

namespace frameshard {
namespace {

// The end of `before` goes over into the beginning of `after`, in place: AutoencoderKLWan.blend_v, blend_h.
void blend(const at::Tensor& before, const at::Tensor& after, int64_t dim) {
  const int64_t extent = std::min(before.size(dim), after.size(dim));
  std::vector<int64_t> along(5, 1);
  along[size_t(dim)] = extent;
  const at::Tensor weight = (at::arange(extent, at::kDouble) / double(extent)).view(along);
  at::Tensor seam = after.narrow(dim, 0, extent);
  const at::Tensor end = before.narrow(dim, before.size(dim) - extent, extent);
  seam.mul_(weight.to(at::kFloat)).add_(end * (1 - weight).to(at::kFloat));
}

// A copy of its own: the tile is gone then.
at::Tensor last(const at::Tensor& tile, int64_t dim, int64_t count) {
  count = std::min(count, tile.size(dim));
  return tile.narrow(dim, tile.size(dim) - count, count).clone();
}

// One tile over all of its frames, on the CPU.
at::Tensor decode_tile(const Vae& vae, const at::Tensor& latents, const Area& area) {
  std::vector<at::Tensor> parts;
  vae.decode_unlimited(
      latents.narrow(3, area.top, area.height).narrow(4, area.left, area.width),
      [&](const at::Tensor& frames) { parts.push_back(frames.to(at::kCPU, at::kFloat).contiguous()); });
  return at::cat(parts, 2);
}

// The first frame of a tile in which a number is not finite; without one, their number.
int64_t first_bad_frame(const at::Tensor& tile) {
  const int64_t frames = tile.size(2);
  for (int64_t i = 0; i < frames; ++i) {
    if (!at::isfinite(tile.select(2, i)).all().item<bool>()) return i;
  }
  return frames;
}

// `tile`: null where this rank has none in this round, which the first rank always has.
void check_finite(const at::Tensor& tile, Communicator& group) {
  const int64_t none = std::numeric_limits<int64_t>::max();
  const int64_t mine = tile.defined() ? first_bad_frame(tile) : none;
  at::Tensor bad = at::full({1}, tile.defined() && mine < tile.size(2) ? mine : none, at::kLong);
  group.all_reduce(bad, ReduceOp::min);
  if (bad.item<int64_t>() == none) return;
  fail(ExitCode::not_finite, "the VAE made a NaN or Inf near frame {}; try model.vae_dtype=float32",
       bad.item<int64_t>());
}

// The tiles of a round, on the first rank, in the order of ranks; empty on others.
std::vector<at::Tensor> gather(const at::Tensor& mine, const TileGrid& grid, int64_t first,
                               Communicator& group) {
  if (group.size() == 1) return {mine};
  Counts send(size_t(group.size()), 0), recv = send;
  send[0] = mine.defined() ? mine.numel() : 0;
  const int64_t here = std::min<int64_t>(group.size(), grid.count() - first);
  std::vector<std::vector<int64_t>> shapes;
  if (group.rank() == 0) {
    const int64_t scale = mine.size(3) / grid.tile(first).height;
    for (int64_t i = 0; i < here; ++i) {
      const Area area = grid.tile(first + i);
      shapes.push_back({1, mine.size(1), mine.size(2), scale * area.height, scale * area.width});
      recv[size_t(i)] = c10::multiply_integers(shapes.back());
    }
  }
  const at::Tensor all = group.all_to_all(mine.defined() ? mine.view({-1}) : at::empty({0}), send, recv);
  std::vector<at::Tensor> tiles;
  const auto offsets = offsets_of(recv);
  for (size_t i = 0; i < shapes.size(); ++i) {
    tiles.push_back(all.narrow(0, offsets[i], recv[i]).view(shapes[i]));
  }
  return tiles;
}

}  // namespace

TileBlender::TileBlender(const TileGrid& grid, int64_t scale, FinishedPart finished)
    : grid_(grid), scale_(scale), finished_(std::move(finished)), above_(size_t(grid.columns())) {}

void TileBlender::add(at::Tensor tile) {
  const int64_t column = next_ % grid_.columns(), edge = scale_ * grid_.tiling().overlap();
  at::Tensor& above = above_[size_t(column)];
  if (above.defined()) blend(above, tile, 3);
  if (column > 0) blend(left_, tile, 4);
  above = last(tile, 3, edge);
  left_ = last(tile, 4, edge);
  const Area latents = grid_.owned(next_++);
  const Area area{scale_ * latents.top, scale_ * latents.left, scale_ * latents.height,
                  scale_ * latents.width};
  finished_(area, tile.narrow(3, 0, area.height).narrow(4, 0, area.width).clamp_(-1.0, 1.0));
}

void decode_tiled(const Vae& vae, const at::Tensor& latents, const Tiling& tiling, Communicator& group,
                  const FinishedPart& finished) {
  const TileGrid grid(latents.size(3), latents.size(4), tiling);
  std::optional<TileBlender> blender;
  for (int64_t first = 0; first < grid.count(); first += group.size()) {
    const int64_t i = first + group.rank();
    at::Tensor mine;
    if (i < grid.count()) mine = decode_tile(vae, latents, grid.tile(i));
    check_finite(mine, group);
    if (group.rank() == 0 && !blender) blender.emplace(grid, mine.size(3) / grid.tile(0).height, finished);
    for (at::Tensor& tile : gather(mine, grid, first, group)) blender->add(std::move(tile));
  }
}

}  // namespace frameshard
