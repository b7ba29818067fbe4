#include "parallel/trained_parameters.h"

namespace frameshard {

TrainedBytes trained_bytes(const TrainedSizes& sizes, int zero, int ranks) {
  const int64_t all = sizes.elements, mine = (all + ranks - 1) / ranks;
  if (ranks == 1 || zero == 0) {
    return {all * sizes.element_bytes, all * sizes.element_bytes, all * sizes.state_bytes};
  }
  const int64_t weights = zero < 3 ? all : mine + sizes.largest_unit;
  const int64_t gradients = mine + (zero < 2 ? all : sizes.bucket);
  return {weights * sizes.element_bytes, gradients * sizes.element_bytes, mine * sizes.state_bytes};
}

}  // namespace frameshard
