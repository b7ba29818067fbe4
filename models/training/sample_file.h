// A file of one tensor that tells whether it is whole.
#pragma once

#include <filesystem>

#include <ATen/ATen.h>

namespace frameshard {

/// Writes a CPU tensor and a hash of its dtype, shape and bytes (safetensors "sample" and "hash");
/// atomically. 74 where it cannot be written.
void write_sample_file(const std::filesystem::path& file, const at::Tensor& sample);

/// 66 where it is not there; 65 where it is cut off, is not such a file, or its content was changed.
at::Tensor read_sample_file(const std::filesystem::path& file);

}  // namespace frameshard
