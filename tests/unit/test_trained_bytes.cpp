// What a plan says that training holds.
#include "parallel/trained_parameters.h"
#include "tests/support/catch.h"

using namespace frameshard;

TEST_CASE("bytes for what is trained, by stage: the table of the ZeRO paper and what is whole for a moment") {
  // Weights and gradients of 2 bytes, 12 of state (float32 averages and master): 16 a number, as in the
  // paper.
  const TrainedSizes sizes{
      .elements = 1000, .element_bytes = 2, .state_bytes = 12, .largest_unit = 100, .bucket = 40};
  struct Wanted {
    int zero, ranks;
    int64_t weights, gradients, optimizer;
  };
  for (const Wanted& wanted : {Wanted{0, 8, 2000, 2000, 12000}, Wanted{1, 8, 2000, 2000 + 250, 1500},
                               Wanted{2, 8, 2000, 250 + 80, 1500}, Wanted{3, 8, 250 + 200, 250 + 80, 1500},
                               Wanted{3, 1, 2000, 2000, 12000}, Wanted{0, 1, 2000, 2000, 12000},
                               Wanted{2, 3, 2000, 2 * 334 + 80, 12 * 334}}) {
    INFO("ZeRO " << wanted.zero << " on " << wanted.ranks << " ranks");
    const TrainedBytes got = trained_bytes(sizes, wanted.zero, wanted.ranks);
    CHECK(got.weights == wanted.weights);
    CHECK(got.gradients == wanted.gradients);
    CHECK(got.optimizer == wanted.optimizer);
    CHECK(got.total() == wanted.weights + wanted.gradients + wanted.optimizer);
  }
}

TEST_CASE("a model of 14 billion weights fits where its optimizer alone would not") {
  const TrainedSizes sizes{.elements = 14'288'491'584,
                           .element_bytes = 2,
                           .state_bytes = 12,
                           .largest_unit = 3 * 351'000'000,
                           .bucket = 3 * 351'000'000};
  CHECK(trained_bytes(sizes, 0, 8).optimizer > int64_t(141e9));
  CHECK(trained_bytes(sizes, 3, 8).total() < int64_t(33e9));
  CHECK(trained_bytes(sizes, 3, 8).total() < trained_bytes(sizes, 2, 8).total());
  CHECK(trained_bytes(sizes, 2, 8).total() < trained_bytes(sizes, 1, 8).total());
}
