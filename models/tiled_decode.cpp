#include "models/tiled_decode.h"

#include <algorithm>
#include <limits>
#include <optional>

#include "core/error.h"
#include "parallel/comm/text.h"
#include "parallel/work_units.h"

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

void check_finite(const std::vector<at::Tensor>& tiles, Communicator& group) {
  constexpr int64_t none = std::numeric_limits<int64_t>::max();
  int64_t first = none;
  for (const at::Tensor& tile : tiles) {
    if (const int64_t frame = first_bad_frame(tile); frame < tile.size(2)) first = std::min(first, frame);
  }
  first = reduce_number(group, first, ReduceOp::min);
  if (first == none) return;
  fail(ExitCode::not_finite, "the VAE made a NaN or Inf near frame {}; try model.vae_dtype=float32", first);
}

// Frames of the video, and pixels of a latent along an axis: not every rank has a tile to see them from.
std::pair<int64_t, int64_t> frames_and_scale(const std::vector<at::Tensor>& mine, const Area& area,
                                             Communicator& group) {
  at::Tensor seen = at::zeros({2}, at::kLong);
  if (!mine.empty()) seen = at::tensor({mine[0].size(2), mine[0].size(3) / area.height}, at::kLong);
  group.all_reduce(seen, ReduceOp::max);
  return {seen[0].item<int64_t>(), seen[1].item<int64_t>()};
}

// The tiles of a round on the first rank, in their order; empty on others.
std::vector<at::Tensor> gather(std::vector<at::Tensor> mine, const Deal& deal,
                               const std::vector<std::vector<int64_t>>& shapes, Communicator& group) {
  if (group.size() == 1) return mine;
  Counts send(size_t(group.size()), 0), recv = send;
  std::vector<at::Tensor> flat{at::empty({0})};
  for (const at::Tensor& tile : mine) flat.push_back(tile.view({-1}));
  const at::Tensor packed = flat.size() == 2 ? flat[1] : at::cat(flat);
  mine.clear(), flat.clear();
  send[0] = packed.numel();
  for (size_t rank = 0; group.rank() == 0 && rank < deal.size(); ++rank) {
    for (const size_t tile : deal[rank]) recv[rank] += c10::multiply_integers(shapes[tile]);
  }
  const at::Tensor all = group.all_to_all(packed, send, recv);
  if (group.rank() != 0) return {};
  return unpacked_units(all, deal, shapes);
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

void decode_tiled(const Vae& vae, const at::Tensor& latents, const Tiling& tiling, const TileRanks& ranks,
                  const FinishedPart& finished) {
  Communicator& group = ranks.group;
  const std::vector<double> alike(size_t(group.size()), 1.0);
  const std::span<const double> speeds = ranks.speeds.empty() ? std::span<const double>(alike) : ranks.speeds;
  const TileGrid grid(latents.size(3), latents.size(4), tiling);
  std::optional<TileBlender> blender;
  std::pair<int64_t, int64_t> frames_scale;
  const int64_t round = tiles_a_round(speeds);
  for (int64_t first = 0; first < grid.count(); first += round) {
    std::vector<double> costs;
    for (int64_t i = first; i < std::min(first + round, grid.count()); ++i) {
      costs.push_back(double(grid.tile(i).height * grid.tile(i).width));
    }
    const Deal deal = schedule(costs, speeds);
    const std::vector<size_t>& numbers = deal[size_t(group.rank())];
    std::vector<at::Tensor> mine;
    for (const size_t i : numbers) mine.push_back(decode_tile(vae, latents, grid.tile(first + int64_t(i))));
    check_finite(mine, group);
    if (first == 0) {
      const Area area = numbers.empty() ? Area{} : grid.tile(int64_t(numbers[0]));
      frames_scale = frames_and_scale(mine, area, group);
      if (group.rank() == 0) blender.emplace(grid, frames_scale.second, finished);
    }
    const auto [frames, scale] = frames_scale;
    std::vector<std::vector<int64_t>> shapes;
    for (size_t i = 0; i < costs.size(); ++i) {
      const Area area = grid.tile(first + int64_t(i));
      shapes.push_back({1, 3, frames, scale * area.height, scale * area.width});
    }
    for (at::Tensor& tile : gather(std::move(mine), deal, shapes, group)) blender->add(std::move(tile));
  }
}

}  // namespace frameshard
