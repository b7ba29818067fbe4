#include <cmath>

#include "core/rng.h"
#include "models/common/attention_kernel.h"
#include "models/common/text_rows.h"
#include "tests/support/catch.h"
#include "tests/support/rank_test.h"
#include "tests/support/small_denoise.h"

using namespace frameshard;
using namespace frameshard::testing;

namespace {

// [batch, length, 8], rows from `used` on are 0.
at::Tensor padded_text(int64_t batch, int64_t length, int64_t used) {
  at::Tensor text = initial_noise({batch, length, 8}, 5);
  text.slice(1, used).zero_();
  return text;
}

}  // namespace

TEST_CASE("a few rows stand for the padding") {
  const TextRows rows = text_rows(padded_text(1, 512, 20), at::kFloat);
  CHECK(rows.text.size(1) == 21);
  CHECK(rows.weight.sizes() == at::IntArrayRef{1, 1, 1, 21});
  CHECK(rows.weight.flatten().narrow(0, 0, 20).abs().sum().item<double>() == 0);
  CHECK(std::abs(rows.weight.flatten()[20].item<double>() - std::log(492)) < 1e-6);
  CHECK(text_rows(padded_text(1, 512, 0), at::kFloat).text.size(1) == 1);
  CHECK(used_rows(padded_text(2, 16, 3)) == 3);
  at::Tensor mixed = padded_text(2, 16, 3);
  mixed[1][9][0] = 1;  // a longer prompt in the batch
  CHECK(used_rows(mixed) == 10);
}

TEST_CASE("a text without padding, or with hardly any, stays as it is") {
  for (const int64_t used : {16, 15}) {
    const TextRows rows = text_rows(padded_text(1, 16, used), at::kFloat);
    CHECK(rows.text.size(1) == 16);
    CHECK_FALSE(rows.weight.defined());
  }
}

TEST_CASE("the weights add up to the rows that they stand for, in any type") {
  for (const auto dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
    for (const int64_t padding : {3, 17, 100, 492, 4000}) {
      const TextRows rows = text_rows(padded_text(1, padding + 5, 5).to(dtype), dtype);
      if (!rows.weight.defined()) continue;  // too few to gain
      CHECK(rows.weight.scalar_type() == dtype);
      const double sum = rows.weight.to(at::kDouble).exp().sum().item<double>();
      CHECK(std::abs(sum - double(padding + 5)) <= 2e-6 * double(padding));
      CHECK(rows.text.size(1) <= 5 + 8);
    }
  }
}

TEST_CASE("attention to the few rows is attention to all of them") {
  const at::Tensor q = initial_noise({2, 33, 4, 16}, 1), wk = initial_noise({8, 64}, 2),
                   wv = initial_noise({8, 64}, 3);
  const at::Tensor text = padded_text(2, 200, 11);
  const TextRows rows = text_rows(text, at::kFloat);
  auto heads = [](const at::Tensor& x) { return x.unflatten(-1, {4, 16}); };
  // A bias, as in a model: the padding's keys and values are not 0.
  auto keys = [&](const at::Tensor& x) { return heads(at::matmul(x, wk) + 0.3); };
  auto values = [&](const at::Tensor& x) { return heads(at::matmul(x, wv) - 0.7); };
  const at::Tensor all = sdpa_kernel().attend(q, keys(text), values(text));
  const at::Tensor few = attend_weighted(q, keys(rows.text), values(rows.text), rows.weight);
  CHECK(relative_error(few, all) < 5e-6);
  CHECK(relative_error(attend_weighted(q, keys(rows.text), values(rows.text), {}), all) > 1e-2);
}

TEST_CASE("a denoiser gives the same for a padded text as for one that only looks unpadded") {
  const SmallModel model;
  at::Tensor padded = model.text().cond[0].clone();
  padded.slice(1, 7).zero_();
  at::Tensor full = padded.clone();
  full.slice(1, 7).fill_(1e-30);  // not 0, and nothing in float32
  const TextContext few = model.denoiser().prepare(padded), all = model.denoiser().prepare(full);
  CHECK(few.k[0].size(1) == 8);
  CHECK(all.k[0].size(1) == 20);
  const CommPtr alone = make_self_communicator();
  const AttentionStrategy attention(*alone, {});
  const ParallelSequence sequence(*alone, *attention, Partition::even(45, 1));
  const at::Tensor latents = initial_noise({1, 16, 3, 10, 6}, 4), time = at::full({1}, 500.0);
  CHECK(relative_error(model.denoiser().predict(latents, time, few, sequence),
                       model.denoiser().predict(latents, time, all, sequence)) < 1e-6);
}
