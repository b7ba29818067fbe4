// How much is trained, and which sample comes when: no sample is dropped or seen twice, whatever the number
// of groups.
#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <vector>

#include "core/error.h"
#include "models/training/sample_order.h"
#include "tests/support/catch.h"
#include "tests/support/failure.h"

namespace frameshard {
namespace {

using namespace test;
using Samples = std::vector<int64_t>;

std::vector<size_t> items_of(const SampleOrder& order, int64_t begin, int64_t end) {
  std::vector<size_t> items;
  for (int64_t i = begin; i < end; ++i) items.push_back(order.item(i));
  return items;
}

}  // namespace

TEST_CASE("13 items x 40 repeats x 1 epoch are 520 samples on 1, 2 and 8 groups", "[training]") {
  const SampleOrder order(std::vector<int64_t>(13, 40), 7);
  REQUIRE(order.epoch_samples() == 520);
  const auto [groups, global_batch] =
      GENERATE(std::pair<size_t, int64_t>{1, 1}, std::pair<size_t, int64_t>{2, 2},
               std::pair<size_t, int64_t>{8, 8}, std::pair<size_t, int64_t>{8, 3},
               std::pair<size_t, int64_t>{2, 48}, std::pair<size_t, int64_t>{3, 1000});
  const TrainAmount amount(order.epoch_samples(), global_batch, {.max_epochs = 1});
  CHECK(amount.samples() == 520);
  CHECK(amount.epochs() == 1);
  CHECK(amount.steps() == (520 + global_batch - 1) / global_batch);
  Samples seen;
  std::map<size_t, int> times;
  for (int64_t step = 0; step < amount.steps(); ++step) {
    const Batch batch = amount.batch(step);
    const bool last = step + 1 == amount.steps();
    CHECK((batch.count() == global_batch || (last && batch.count() > 0 && batch.count() < global_batch)));
    const std::vector<double> costs(size_t(batch.count()), 1.0), speeds(groups, 1.0);
    for (const auto& samples : deal_batch(costs, speeds)) {
      for (const int64_t sample : samples) {
        seen.push_back(batch.begin + sample);
        ++times[order.item(batch.begin + sample)];
      }
    }
  }
  std::sort(seen.begin(), seen.end());
  Samples all(520);
  std::iota(all.begin(), all.end(), 0);
  CHECK(seen == all);
  REQUIRE(times.size() == 13);
  for (const auto& [item, count] : times) CHECK(count == 40);
}

TEST_CASE("an epoch has every item as often as it repeats, in an order of its own", "[training]") {
  const SampleOrder order({3, 0, 1, 2}, 0);
  REQUIRE(order.epoch_samples() == 6);
  std::set<std::vector<size_t>> orders;
  for (int64_t epoch = 0; epoch < 5; ++epoch) {
    auto items = items_of(order, epoch * 6, epoch * 6 + 6);
    orders.insert(items);
    std::sort(items.begin(), items.end());
    CHECK(items == std::vector<size_t>{0, 0, 0, 2, 3, 3});
  }
  CHECK(orders.size() > 1);
  // The seed and the epoch alone decide, not what was asked for before.
  const SampleOrder again({3, 0, 1, 2}, 0), other({3, 0, 1, 2}, 1);
  CHECK(again.item(27) == order.item(27));
  CHECK(items_of(again, 0, 30) == items_of(order, 0, 30));
  CHECK(items_of(other, 0, 30) != items_of(order, 0, 30));
}

TEST_CASE("every item comes at every place about as often", "[training]") {
  constexpr int64_t items = 4, epochs = 4000;
  const SampleOrder order(std::vector<int64_t>(items, 1), 5);
  std::vector<int> counts(items * items);
  for (int64_t i = 0; i < items * epochs; ++i) ++counts[size_t(i % items) * items + order.item(i)];
  for (const int count : counts) CHECK(std::abs(count - epochs / items) < 150);  // 5 standard deviations
}

TEST_CASE("the order is the same on every machine", "[training]") {
  CHECK(items_of(SampleOrder(std::vector<int64_t>(8, 1), 42), 0, 8) ==
        std::vector<size_t>{5, 7, 3, 0, 4, 1, 2, 6});
}

TEST_CASE("the smallest of the limits counts", "[training]") {
  const auto amount = [](TrainLimits limits) { return TrainAmount(10, 4, limits); };
  CHECK(amount({}).samples() == 10);  // one epoch
  CHECK(amount({}).steps() == 3);
  CHECK(amount({.max_epochs = 3}).samples() == 30);
  CHECK(amount({.max_epochs = 3}).steps() == 9);
  CHECK(amount({.max_steps = 2}).samples() == 8);
  CHECK(amount({.max_steps = 3}).samples() == 10);
  CHECK(amount({.max_steps = 5}).samples() == 18);
  CHECK(amount({.max_steps = 5}).steps() == 5);
  CHECK(amount({.max_samples = 13}).samples() == 13);
  CHECK(amount({.max_samples = 13}).steps() == 4);
  CHECK(amount({.max_samples = 13}).epochs() == 1.3);
  CHECK(amount({.max_epochs = 2, .max_steps = 100, .max_samples = 100}).samples() == 20);
  CHECK(amount({.max_epochs = 2, .max_steps = 4, .max_samples = 100}).samples() == 14);
  CHECK(amount({.max_epochs = 2, .max_steps = 4, .max_samples = 1}).steps() == 1);
}

TEST_CASE("a batch ends where its epoch does, or the training", "[training]") {
  const TrainAmount amount(10, 4, {.max_samples = 23});
  std::vector<std::pair<int64_t, int64_t>> batches;
  std::vector<bool> ends;
  for (int64_t step = 0; step < amount.steps(); ++step) {
    const Batch batch = amount.batch(step);
    batches.emplace_back(batch.begin, batch.end);
    ends.push_back(amount.ends_epoch(step));
  }
  CHECK(batches == std::vector<std::pair<int64_t, int64_t>>{
                       {0, 4}, {4, 8}, {8, 10}, {10, 14}, {14, 18}, {18, 20}, {20, 23}});
  CHECK(ends == std::vector<bool>{false, false, true, false, false, true, false});
  CHECK(amount.epoch_of(2) == 0);
  CHECK(amount.epoch_of(3) == 1);
}

TEST_CASE("a batch is dealt by cost over speed", "[training]") {
  using Groups = std::vector<Samples>;
  const std::vector<double> alike{1, 1}, twice{2, 1};
  CHECK(deal_batch(std::vector<double>(4, 1.0), alike) == Groups{{0, 2}, {1, 3}});
  const Groups two_to_one = deal_batch(std::vector<double>(6, 1.0), twice);
  CHECK(two_to_one[0].size() == 4);
  CHECK(two_to_one[1].size() == 2);
  CHECK(deal_batch(std::vector<double>{1, 1, 2}, alike) == Groups{{2}, {0, 1}});
  CHECK(deal_batch(std::vector<double>{1}, alike) == Groups{{0}, {}});
}

TEST_CASE("seeds of samples are splitmix64's numbers", "[training]") {
  // The stream that begins at 1234567, as https://rosettacode.org/wiki/Pseudo-random_numbers/Splitmix64 has
  // it.
  CHECK(sample_seed(1234567, 0) == 6457827717110365317U);
  CHECK(sample_seed(1234567, 1) == 3203168211198807973U);
  CHECK(sample_seed(1234567, 4) == 16408922859458223821U);
}

TEST_CASE("nothing to train on", "[training]") {
  for (const auto& repeats : {std::vector<int64_t>{}, std::vector<int64_t>{0, 0}}) {
    const Failure failure = failure_of([&] { SampleOrder(repeats, 0); });
    CHECK(failure.code == ExitCode::bad_data);
    CHECK_THAT(failure.message, Contains("no sample to train on"));
  }
  const Failure failure = failure_of([] { SampleOrder({1'000'000'000, 1}, 0); });
  CHECK(failure.code == ExitCode::bad_data);
  CHECK_THAT(failure.message, Contains("more than 1000000000 samples") && Contains("data.repeats"));
}

}  // namespace frameshard
