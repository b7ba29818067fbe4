#include "parallel/bucket.h"

#include <c10/core/GradMode.h>

#include "core/error.h"

namespace frameshard {

Bucket::Bucket(const std::vector<at::Tensor*>& weights) {
  const c10::NoGradGuard no_grad;
  int64_t elements = 0;
  for (const at::Tensor* weight : weights) elements += weight->numel();
  flat_ = at::empty({elements}, weights.at(0)->options().requires_grad(false));
  int64_t begin = 0;
  for (at::Tensor* weight : weights) {
    const at::Tensor view = flat_.narrow(0, begin, weight->numel()).view(weight->sizes());
    view.copy_(*weight);
    // Detached: a leaf of its own, which the engine does not take for a view of `flat_`.
    *weight = view.detach().requires_grad_();
    weights_.push_back({.leaf = *weight, .begin = begin});
    begin += weight->numel();
  }
}

void Bucket::free_weights() {
  c10::StorageImpl& memory = *flat_.storage().unsafeGetStorageImpl();
  memory.set_data_ptr_noswap(at::DataPtr(nullptr, flat_.device()));
  memory.set_nbytes(0);
}

void Bucket::take_memory(at::Tensor whole) {
  c10::StorageImpl& theirs = *whole.storage().unsafeGetStorageImpl();
  require(whole.numel() == elements() && whole.scalar_type() == flat_.scalar_type() &&
              whole.storage_offset() == 0 && whole.storage().use_count() == 1,
          "a bucket of {} elements takes {} elements in memory that others use", elements(), whole.numel());
  c10::StorageImpl& memory = *flat_.storage().unsafeGetStorageImpl();
  const size_t bytes = theirs.nbytes();
  memory.set_data_ptr_noswap(theirs.set_data_ptr(at::DataPtr(nullptr, flat_.device())));
  memory.set_nbytes(bytes);
  theirs.set_nbytes(0);
}

at::Tensor Bucket::gradient_place(const Weight& weight) const {
  return gradient_.narrow(0, weight.begin, weight.leaf.numel()).view(weight.leaf.sizes());
}

void Bucket::make_gradient() {
  if (!gradient_.defined()) gradient_ = at::empty({elements()}, flat_.options());
}

// Copied rather than added up where autograd would (a gradient that is there before): that needs no memory
// set to 0 before, and no look at what was there.
void Bucket::take_gradient(size_t i) {
  const c10::NoGradGuard no_grad;
  Weight& weight = weights_[i];
  at::Tensor& came = weight.leaf.mutable_grad();
  if (!came.defined()) return;
  make_gradient();
  const at::Tensor place = gradient_place(weight);
  if (weight.has_gradient) {
    place.add_(came);
  } else {
    place.copy_(came);
  }
  weight.has_gradient = true;
  came.reset();
}

at::Tensor& Bucket::gradient() {
  const c10::NoGradGuard no_grad;
  make_gradient();
  for (Weight& weight : weights_) {
    if (!weight.has_gradient) gradient_place(weight).zero_();
    weight.has_gradient = true;
  }
  return gradient_;
}

void Bucket::clear_gradient() {
  for (Weight& weight : weights_) {
    weight.has_gradient = false;
    weight.leaf.mutable_grad().reset();
  }
}

}  // namespace frameshard
