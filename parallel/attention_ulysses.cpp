#include <c10/core/GradMode.h>

#include "core/error.h"
#include "parallel/attention.h"
#include "parallel/balance.h"
#include "parallel/collectives.h"
#include "parallel/exchange.h"

namespace frameshard {
namespace {

// Heads are treated in at most so many chunks: what cannot overlap (the first chunk's way there, the last
// one's way back) is a quarter then, and each chunk still fills a GPU.
constexpr int64_t most_chunks = 4;
// What a rank sends of q, k and v in a chunk, at least, where the overlap is chosen by itself: a chunk costs
// some ten launches more (packing, attention, unpacking: 50 us), in which NVLink moves about so much.
constexpr int64_t least_chunk_bytes = 16 << 20;

// Of each rank's heads, those of chunk `chunk`; none on a rank that has fewer heads than there are chunks.
Pieces chunk_of(const Partition& heads, int chunks, int chunk) {
  Pieces pieces;
  for (int rank = 0; rank < heads.parts(); ++rank) {
    const Partition mine = Partition::even(heads.size(rank), chunks);
    pieces.begins.push_back(heads.begin(rank) + mine.begin(chunk));
    pieces.sizes.push_back(mine.size(chunk));
  }
  return pieces;
}

class UlyssesAttention final : public AttentionParallel {
 public:
  UlyssesAttention(Communicator& group, AttentionPtr inner, int group_index, ExchangeOverlap overlap,
                   std::vector<double> speeds)
      : group_(group),
        inner_(std::move(inner)),
        group_index_(group_index),
        overlap_(overlap),
        speeds_(std::move(speeds)) {}

  at::Tensor self_attention(Qkv mine, const Partition& tokens, const AttentionKernel& kernel) const override {
    const Split split{.rings = tokens.merged(group_.size()),
                      .here = tokens.slice(group_index_ * group_.size(), group_.size()),
                      .heads = divide_heads(mine.q.size(2), group_.size(), speeds_)};
    const int chunks = int(chunk_count(mine.q, split));
    return chunks > 1 ? in_chunks(std::move(mine), split, chunks, kernel)
                      : at_once(std::move(mine), split, kernel);
  }

 private:
  struct Split {
    Partition rings, here, heads;  // tokens of each ring's rank, of this group's ranks; heads of these
  };

  // From sizes that all ranks know, so that it is the same on all of them.
  int64_t chunk_count(const at::Tensor& q, const Split& split) const {
    if (overlap_ == ExchangeOverlap::off || group_.size() == 1 || c10::GradMode::is_enabled()) return 1;
    const int64_t chunks = std::min(most_chunks, split.heads.largest());
    if (overlap_ == ExchangeOverlap::on) return chunks;
    if (!group_.exchanges_beside_work()) return 1;
    const int64_t away = split.heads.total() - split.heads.largest();
    const int64_t bytes = 3 * q.size(0) * split.here.largest() * away * q.size(3) * q.element_size();
    return std::min(chunks, bytes / least_chunk_bytes);
  }

  at::Tensor at_once(Qkv mine, const Split& split, const AttentionKernel& kernel) const {
    // v may be a slice of a tensor that the others are not part of any more: a copy lets go of it.
    std::vector<at::Tensor> parts{std::move(mine.q), std::move(mine.k), mine.v.contiguous()};
    mine.v.reset();
    // One exchange for all three: [B, S_mine, H, D] -> [B, S_group, H_mine, D]
    auto qkv = redistribute(std::move(parts), 1, split.here, 2, split.heads, group_);
    const at::Tensor attended = attend(std::move(qkv), split, kernel);
    return redistribute(attended, 2, split.heads, 1, split.here, group_);  // -> [B, S_mine, H, D]
  }

  // While a chunk of the heads is attended, the next one's q, k, v and the last one's result travel. The
  // exchanges follow each other in one order on all ranks: there 0, there 1, back 0, there 2, back 1, ...
  at::Tensor in_chunks(Qkv mine, const Split& split, int chunks, const AttentionKernel& kernel) const {
    const at::Tensor result = at::empty(mine.q.sizes(), mine.q.options());
    std::vector<at::Tensor> parts{std::move(mine.q), std::move(mine.k), std::move(mine.v)};
    std::optional<StartedExchange> next = start_there(parts, split, chunk_of(split.heads, chunks, 0));
    std::optional<StartedExchange> back;
    for (int chunk = 0; chunk < chunks; ++chunk) {
      StartedExchange now = std::move(*next);
      if (chunk + 1 < chunks) {
        next.emplace(start_there(parts, split, chunk_of(split.heads, chunks, chunk + 1)));
      } else {
        parts.clear();
      }
      const at::Tensor attended = attend(now.finish(), split, kernel);
      if (back) back->finish();
      back.emplace(start_back(attended, result, split, chunk_of(split.heads, chunks, chunk)));
    }
    back->finish();
    return result;
  }

  // [B, S_mine, H, D] -> [B, S_group, H_chunk, D], three of them
  StartedExchange start_there(const std::vector<at::Tensor>& parts, const Split& split, Pieces chunk) const {
    auto shape = parts[0].sizes().vec();
    shape[1] = split.here.total(), shape[2] = chunk.sizes[size_t(group_.rank())];
    std::vector<at::Tensor> room;
    for (const at::Tensor& part : parts) room.push_back(at::empty(shape, part.options()));
    return {parts, std::move(room), {1, pieces_of(split.here), 2, std::move(chunk)}, group_};
  }

  // [B, S_group, H_chunk, D] -> this chunk's heads of [B, S_mine, H, D]
  StartedExchange start_back(const at::Tensor& attended, const at::Tensor& result, const Split& split,
                             Pieces chunk) const {
    return {{attended}, {result}, {2, std::move(chunk), 1, pieces_of(split.here)}, group_};
  }

  // A rank beyond the number of heads has none of them: it only takes part in the exchanges.
  at::Tensor attend(std::vector<at::Tensor> qkv, const Split& split, const AttentionKernel& kernel) const {
    if (qkv[0].size(2) == 0) return qkv[0];
    return inner_->self_attention({std::move(qkv[0]), std::move(qkv[1]), std::move(qkv[2])}, split.rings,
                                  kernel);
  }

  Communicator& group_;
  AttentionPtr inner_;
  int group_index_;
  ExchangeOverlap overlap_;
  std::vector<double> speeds_;
};

}  // namespace

ExchangeOverlap parse_overlap(const std::string& text) {
  if (text == "on") return ExchangeOverlap::on;
  if (text == "off") return ExchangeOverlap::off;
  require(text == "auto", "infer.overlap_exchange {} is none of auto, on, off", text);
  return ExchangeOverlap::automatic;
}

AttentionPtr make_ulysses_attention(Communicator& group, AttentionPtr inner, int group_index,
                                    ExchangeOverlap overlap, std::vector<double> speeds) {
  return std::make_unique<UlyssesAttention>(group, std::move(inner), group_index, overlap, std::move(speeds));
}

}  // namespace frameshard
