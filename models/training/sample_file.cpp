#include "models/training/sample_file.h"

#include "core/error.h"
#include "core/hash.h"
#include "core/io/safetensors.h"

namespace frameshard {
namespace {

int64_t hash_of(const at::Tensor& sample) {
  const std::string_view bytes(static_cast<const char*>(sample.const_data_ptr()), sample.nbytes());
  return int64_t(fnv1a(fmt::format("{} {} {:016x}", dtype_to_safetensors(sample.scalar_type()),
                                   format_shape(sample.sizes()), fnv1a(bytes))));
}

}  // namespace

void write_sample_file(const std::filesystem::path& file, const at::Tensor& sample) {
  const at::Tensor whole = sample.contiguous();
  write_safetensors(file, {{"sample", whole}, {"hash", at::tensor({hash_of(whole)}, at::kLong)}});
}

at::Tensor read_sample_file(const std::filesystem::path& file) {
  try {
    const WeightFiles tensors = WeightFiles::open(file);
    const at::Tensor sample = tensors.read("sample"), hash = tensors.read("hash");
    if (hash.numel() == 1 && hash.item<int64_t>() == hash_of(sample)) return sample;
  } catch (const Error& error) {  // its advice is for downloaded weights
    if (error.code() != ExitCode::bad_data) throw;
  }
  fail(ExitCode::bad_data, "{}: cut off or damaged", file.string());
}

}  // namespace frameshard
