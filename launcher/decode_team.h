// The ranks of a replica that decode a video together, each a band of the picture's rows, or tiles, by their
// speeds.
#pragma once

#include <functional>

#include "models/parts.h"
#include "parallel/comm/communicator.h"
#include "parallel/plan.h"

namespace frameshard {

class DecodeTeam {
 public:
  /// Collective over `replica`, whose number is its place among the replicas.
  DecodeTeam(Communicator& replica, int replica_number, const RunPlan& plan);

  /// Whether this rank decodes.
  bool member() const { return member_; }

  /// Collective over the members. The first rank of the replica hands the frames to `sink` as they come:
  /// bytes [n, H, W, 3] on the CPU, in order; `sink` may still work on them while the next ones are decoded.
  /// 80 on all members where the VAE makes a NaN or Inf.
  void decode(const Vae& vae, const at::Tensor& latents, const std::function<void(const at::Tensor&)>& sink);
  /// The same in tiles (models/tiled_decode.h), which all have to be there before the first frame is.
  void decode_in_tiles(const Vae& vae, const at::Tensor& latents,
                       const std::function<void(const at::Tensor&)>& sink);

 private:
  int64_t pixels_of_a_latent(const at::Tensor& frames, Rows rows);
  at::Tensor gather(const at::Tensor& mine, const Partition& bands, int64_t height);
  void check_finite(const at::Tensor& frames, int64_t done);

  bool member_;
  std::vector<double> speeds_;  // of the members; empty: all alike
  CommPtr group_;
};

}  // namespace frameshard
