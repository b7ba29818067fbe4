// Frameshard's mesh and attention in a program of your own: a toy attention layer over four ranks, compared
// with one.
//   mesh_library            ranks are threads
#include <cstdio>

#include <ATen/ATen.h>

#include "models/common/attention_kernel.h"
#include "parallel/collectives.h"
#include "parallel/comm/thread.h"
#include "parallel/mesh.h"
#include "parallel/strategies.h"

int main() {
  bool close = true;
  using namespace frameshard;
  const at::Tensor q = at::randn({1, 37, 7, 16}), k = at::randn_like(q),
                   v = at::randn_like(q);  // [B, S, H, D]
  const at::Tensor whole = sdpa_kernel().attend(q, k, v);

  run_ranks(4, [&](Communicator& world) {
    ProcessMesh mesh(world, {.dp = 1, .cfg = 1, .cp = 4}, group_maker("threads", at::kCPU));
    const AttentionStrategy attention(mesh.cp(), {.ulysses = 2, .ring = 2});
    const Partition tokens =
        Partition::even(q.size(1), mesh.cp().size());  // 10 + 9 + 9 + 9: nothing is padded
    auto mine = [&](const at::Tensor& x) { return shard(x, 1, tokens, mesh.cp()); };
    const at::Tensor part = attention->self_attention({mine(q), mine(k), mine(v)}, tokens, sdpa_kernel());
    const at::Tensor result = unshard(part, 1, tokens, mesh.cp(), Downstream::replicated);
    if (world.rank() == 0) {
      close = (result - whole).norm().item<double>() <= 1e-5 * whole.norm().item<double>();
      std::printf("4 ranks against 1: relative error %.1e\n",
                  (result - whole).norm().item<double>() / whole.norm().item<double>());
    }
  });
  return close ? 0 : 1;
}
