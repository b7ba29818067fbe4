// Weights that lie one after another in memory, and their gradients likewise: what moves in one message.
#pragma once

#include <vector>

#include <ATen/ATen.h>

namespace frameshard {

/// Not thread-safe.
class Bucket {
 public:
  /// Copies weights of one dtype and device into memory of the bucket, of which each becomes a view that
  /// requires a gradient.
  explicit Bucket(const std::vector<at::Tensor*>& weights);

  size_t weights() const { return weights_.size(); }
  const at::Tensor& weight(size_t i) const { return weights_[i].leaf; }
  int64_t elements() const { return flat_.numel(); }

  /// [elements()], the weights' memory. Writing here changes them.
  at::Tensor& flat() { return flat_; }
  /// The weights keep their shapes and have no memory; they must not be read.
  void free_weights();
  /// The memory of `whole` [elements()], which nobody else may use, becomes the weights': also of tensors
  /// that autograd saved.
  void take_memory(at::Tensor whole);

  /// Adds what a backward pass left at weight i to its place, and takes it from there.
  void take_gradient(size_t i);
  bool has_gradient(size_t i) const { return weights_[i].has_gradient; }
  /// [elements()]; 0 where no gradient came.
  at::Tensor& gradient();
  /// None has come. The memory stays, to be used again.
  void clear_gradient();
  void free_gradient() { gradient_.reset(); }

 private:
  struct Weight {
    at::Tensor leaf;
    int64_t begin;
    bool has_gradient = false;
  };
  at::Tensor gradient_place(const Weight& weight) const;
  void make_gradient();

  std::vector<Weight> weights_;
  at::Tensor flat_, gradient_;
};

}  // namespace frameshard
