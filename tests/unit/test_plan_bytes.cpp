// The closed forms of what each rank sends, against the exchanges of the strategies written out.
#include "parallel/plan_costs.h"
#include "tests/support/catch.h"
#include "tests/support/plan_cases.h"

using namespace frameshard;
using namespace frameshard::test;

namespace {

// Elements that rank `rank` of a cp group sends in one layer: the counts of attention_ulysses.cpp and
// attention_ring.cpp, one by one.
int64_t layer_elements(int rank, const AttentionShape& shape, const Partition& tokens, int64_t heads,
                       int64_t head_dim) {
  const Partition pieces = Partition::even(heads, shape.ulysses), groups = tokens.merged(shape.ulysses);
  const int place = rank % shape.ulysses, group = rank / shape.ulysses;
  int64_t sent = 0;
  for (int other = 0; other < shape.ulysses; ++other) {
    if (other == place) continue;
    sent += 3 * tokens.size(rank) * pieces.size(other);
    sent += pieces.size(place) * tokens.size(group * shape.ulysses + other);
  }
  for (int hop = 1; hop < shape.ring; ++hop) {
    const int held = (group - (hop - 1) + shape.ring) % shape.ring;
    sent += 2 * groups.size(held) * pieces.size(place);
  }
  return sent * head_dim;
}

}  // namespace

TEST_CASE("bytes of every rank, for tokens and heads that do not divide") {
  ModelFacts model = facts_1_3b();
  for (const int64_t heads : {7, 12, 40}) {
    for (const AttentionShape shape :
         {AttentionShape{1, 1}, {2, 1}, {1, 3}, {3, 2}, {2, 3}, {5, 1}, {9, 1}, {1, 7}, {4, 3}}) {
      for (const int cfg : {1, 2}) {
        model.heads = heads;
        const Split split{.mesh = {.cfg = cfg, .cp = shape.ulysses * shape.ring}, .attention = shape};
        const VideoClass video{
            .grid = {7, 5, 3}, .text_tokens = 9, .steps = 4, .conditionings = 2, .videos = 1};
        const Partition tokens = Partition::even(105, split.mesh.cp);
        for (int rank = 0; rank < cfg * split.mesh.cp; ++rank) {
          const int me = rank % split.mesh.cp;
          const int64_t forward = 30 * layer_elements(me, shape, tokens, heads, model.head_dim) +
                                  tokens.size(me) * 64 * (split.mesh.cp - 1);
          const SentBytes sent = sent_bytes(split, video, model, rank);
          CHECK(sent.cp == 4 * (cfg == 1 ? 2 : 1) * forward * 2);
          CHECK(sent.cfg == (cfg == 2 ? 4 * 105 * 64 * 2 : 0));
        }
      }
    }
  }
}

TEST_CASE("without guidance there is one branch, and nothing goes to another") {
  const VideoClass video{.grid = {2, 2, 2}, .text_tokens = 9, .steps = 3, .conditionings = 1, .videos = 1};
  const SentBytes alone = sent_bytes({}, video, facts_1_3b(), 0);
  CHECK((alone.cp == 0 && alone.cfg == 0));
  VideoClass guided = video;
  guided.conditionings = 2;
  const Split pair{.mesh = {.cp = 2}, .attention = {.ulysses = 2}};
  CHECK(sent_bytes(pair, guided, facts_1_3b(), 1).cp == 2 * sent_bytes(pair, video, facts_1_3b(), 1).cp);
}
