// One list a model of its weights: the same list checks a checkpoint, counts its bytes, loads it, and makes
// random ones.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include <ATen/ATen.h>

#include "core/io/safetensors.h"

namespace frameshard {

struct HostGroup;

/// In which form and where weights are wanted.
struct LoadOptions {
  at::ScalarType dtype = at::kFloat;
  at::Device device = at::kCPU;
  /// Ranks of this host that load the same weights at the same time (parallel/comm/host_group.h): they read
  /// each weight once between them, and hold one copy where the device is a CPU. Null: this rank loads alone.
  const HostGroup* host = nullptr;
};

/// A low-rank change of some of a layer's outputs (LoRA, https://arxiv.org/abs/2106.09685): scale * b (a x)
/// is added to outputs [first_row, first_row + rows).
struct LowRank {
  at::Tensor a;  ///< [r, in]
  at::Tensor b;  ///< [rows, r]
  double scale = 1;
  int64_t first_row = 0;
};

struct Linear {
  at::Tensor weight, bias;
  at::Tensor scale{};  ///< [out] float32 where `weight` is in 8-bit floats (common/float8.h), else undefined
  std::vector<LowRank> adapters{};
};

/// A layer of add_layer(), by its name without ".weight".
struct LayerSlot {
  std::string name;
  std::vector<int64_t> weight_shape;  ///< [out, in, kernel…]
  Linear* layer;                      ///< its own weight and bias
  Linear* computed;       ///< the layer that the model applies: `layer`, or the one that it is stacked into
  int64_t first_row = 0;  ///< of `computed`
};

/// Where a weight goes and what it must look like.
struct WeightSlot {
  std::string name;
  std::vector<int64_t> shape;
  at::Tensor* target;
  bool keep_float32 = false;           ///< whatever the model's dtype is
  std::vector<std::string> aliases{};  ///< other names of the same tensor in a file
  at::Tensor* whole = nullptr;         ///< of which this one is rows [first_row, first_row + shape[0])
  int64_t first_row = 0, whole_rows = 0;

  at::ScalarType dtype(at::ScalarType model) const { return keep_float32 ? at::kFloat : model; }
  /// With this dtype of the model.
  int64_t bytes(at::ScalarType model) const;
};

/// The weights of one model, in the order in which its constructor names them.
class WeightList {
 public:
  void add(const std::string& name, std::vector<int64_t> shape, at::Tensor& target);
  void add_float32(const std::string& name, std::vector<int64_t> shape, at::Tensor& target);
  void add_alias(const std::string& alias);  ///< of the weight added last
  /// `name`.weight [out, in, kernel…] and `name`.bias [out].
  void add_layer(const std::string& name, std::vector<int64_t> weight_shape, Linear& target,
                 bool keep_float32 = false);
  void add_layer_without_bias(const std::string& name, std::vector<int64_t> weight_shape, Linear& target);
  /// Lays the weights and biases of these layers, added before, one after another in memory: `whole` is one
  /// layer that gives the outputs of all of them, by one product.
  void stack(const std::vector<Linear*>& layers, Linear& whole);
  /// Names in a file that end so are no weights of ours, and not an error either.
  void ignore_suffix(const std::string& suffix) { ignored_.push_back(suffix); }

  const std::vector<WeightSlot>& slots() const { return slots_; }
  const std::vector<LayerSlot>& layers() const { return layers_; }
  bool ignores(const std::string& name) const;
  /// Bytes on the device when loaded with this dtype.
  int64_t bytes(at::ScalarType dtype) const;

 private:
  void stack(const std::vector<at::Tensor*>& targets, at::Tensor& whole);

  std::vector<WeightSlot> slots_;
  std::vector<LayerSlot> layers_;
  std::vector<std::string> ignored_;
};

/// Compares names and shapes with a checkpoint's headers; 65 with at most 10 names that are missing, extra or
/// of another shape. Reads no tensor.
void check_weights(const WeightList& list, const WeightFiles& files, const std::string& component);

/// Sets the target, whose memory `make` gives for a shape and dtype: that of the whole, where the slot is the
/// first part of one.
void allocate_weight(const WeightSlot& slot, at::ScalarType dtype,
                     const std::function<at::Tensor(at::IntArrayRef, at::ScalarType)>& make);
/// The same with memory of its own on a device.
void allocate_weight(const WeightSlot& slot, at::ScalarType dtype, const at::Device& device);
/// Reads a weight into its target.
void read_weight(const WeightSlot& slot, const WeightFiles& files);

/// Allocates every weight in its final dtype and device, and reads it there. With `options.host` collective
/// over it: where one of its ranks fails, all throw the error of the lowest that did
/// (models/weight_sharing.h).
void load_weights(const WeightList& list, const WeightFiles& files, const LoadOptions& options);

/// Moves every weight that is there, and the layers' low-rank changes, to a device, one after another: no
/// more than a layer's weights are in both places at once. Parts of a whole stay parts of it.
void move_weights(const WeightList& list, const at::Device& device);

/// Allocates every weight likewise and draws it on the device: norms are 1, all else is normal with a small
/// deviation, so that what the model computes stays finite. The same seed gives the same weights on devices
/// of one type.
void randomize_weights(const WeightList& list, at::ScalarType dtype, const at::Device& device, uint64_t seed);

}  // namespace frameshard
