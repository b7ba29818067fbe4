#include "launcher/decode_team.h"

#include <future>

#include <c10/core/GradMode.h>

#include "core/error.h"
#include "models/pipeline.h"
#include "models/tiled_decode.h"
#include "parallel/balance.h"
#include "parallel/comm/text.h"

namespace frameshard {
namespace {

// Runs one piece of work beside its caller at a time; what the work throws comes out of the next call.
class Beside {
 public:
  ~Beside() {
    if (running_.valid()) running_.wait();
  }
  void run(std::function<void()> work) {
    finish();
    running_ = std::async(std::launch::async, std::move(work));
  }
  void finish() {
    if (running_.valid()) running_.get();
  }

 private:
  std::future<void> running_;
};

}  // namespace

DecodeTeam::DecodeTeam(Communicator& replica, int replica_number, const RunPlan& plan)
    : member_(replica.rank() % plan.decoder_stride() == 0),
      speeds_(plan.decoder_speeds(replica_number)),
      group_(
          replica.split(member_ ? 0 : 1, replica.rank(), replica.name() + (member_ ? ".decode" : ".idle"))) {}

void DecodeTeam::decode(const Vae& vae, const at::Tensor& latents,
                        const std::function<void(const at::Tensor&)>& sink) {
  require(member_, "rank {} does not decode", group_->rank());
  const c10::NoGradGuard no_grad;
  const Partition bands = divide_tokens(latents.size(3), speeds_, group_->size());
  const Rows rows{bands.begin(group_->rank()), bands.end(group_->rank())};
  Beside writing;
  int64_t done = 0, scale = 0;
  vae.decode(latents, rows, [&](const at::Tensor& frames) {
    check_finite(frames, done);
    done += frames.size(2);
    if (scale == 0) scale = pixels_of_a_latent(frames, rows);
    const at::Tensor bytes = gather(to_rgb_bytes(frames), bands, scale);
    if (group_->rank() == 0) writing.run([&sink, bytes] { sink(bytes); });
  });
  writing.finish();
}

void DecodeTeam::decode_in_tiles(const Vae& vae, const at::Tensor& latents,
                                 const std::function<void(const at::Tensor&)>& sink) {
  require(member_, "rank {} does not decode", group_->rank());
  const c10::NoGradGuard no_grad;
  const Tiling tiling;
  at::Tensor video;  // bytes: a quarter of what the frames would take
  decode_tiled(vae, latents, tiling, {*group_, speeds_}, [&](const Area& area, const at::Tensor& frames) {
    if (!video.defined()) {  // the first part is of a whole tile, as far as the picture goes
      const int64_t scale = area.height / std::min(tiling.stride, latents.size(3));
      video = at::empty({frames.size(2), scale * latents.size(3), scale * latents.size(4), 3}, at::kByte);
    }
    video.narrow(1, area.top, area.height).narrow(2, area.left, area.width).copy_(to_rgb_bytes(frames));
  });
  if (group_->rank() == 0) sink(video);
}

void DecodeTeam::check_finite(const at::Tensor& frames, int64_t done) {
  const bool finite = at::isfinite(frames).all().item<bool>();
  if (reduce_number(*group_, finite, ReduceOp::min) != 0) return;
  fail(ExitCode::not_finite, "the VAE made a NaN or Inf near frame {}; try model.vae_dtype=float32", done);
}

// Along an axis; a rank without rows hears it from the others.
int64_t DecodeTeam::pixels_of_a_latent(const at::Tensor& frames, Rows rows) {
  return reduce_number(*group_, rows.count() == 0 ? 0 : frames.size(3) / rows.count(), ReduceOp::max);
}

// Bands [n, rows, W, 3] -> [n, H, W, 3] on the first rank. `height`: pixels of a row of latents.
at::Tensor DecodeTeam::gather(const at::Tensor& mine, const Partition& bands, int64_t height) {
  const int ranks = group_->size();
  if (ranks == 1) return mine;
  const int64_t frames = mine.size(0), width = mine.size(2);
  Counts send(size_t(ranks), 0), recv(size_t(ranks), 0);
  send[0] = mine.numel();
  if (group_->rank() == 0) {
    for (int i = 0; i < ranks; ++i) recv[size_t(i)] = frames * bands.size(i) * height * width * 3;
  }
  const at::Tensor all = group_->all_to_all(mine.view({-1}), send, recv);
  if (group_->rank() != 0) return {};
  std::vector<at::Tensor> parts;
  const auto offsets = offsets_of(recv);
  for (int i = 0; i < ranks; ++i) {
    parts.push_back(
        all.narrow(0, offsets[size_t(i)], recv[size_t(i)]).view({frames, bands.size(i) * height, width, 3}));
  }
  return at::cat(parts, 1);
}

}  // namespace frameshard
