#include "core/error.h"
#include "core/io/atomic_file.h"
#include "core/io/json_file.h"
#include "core/io/safetensors.h"

namespace frameshard {

void write_safetensors(const std::filesystem::path& path, const NamedTensors& tensors,
                       const std::map<std::string, std::string>& metadata) {
  Json header = Json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  uint64_t offset = 0;
  for (const auto& [name, tensor] : tensors) {
    require(!header.contains(name), "two tensors \"{}\" to write", name);
    header[name] = {{"dtype", dtype_to_safetensors(tensor.scalar_type())},
                    {"shape", tensor.sizes().vec()},
                    {"data_offsets", {offset, offset + tensor.nbytes()}}};
    offset += tensor.nbytes();
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');  // so that the data is aligned

  AtomicFile file(path);
  std::string length(8, '\0');
  for (int i = 0; i < 8; ++i) length[size_t(i)] = char(uint64_t(text.size()) >> (8 * i) & 0xff);
  file.write(std::string_view(length));
  file.write(std::string_view(text));
  for (const auto& [name, tensor] : tensors) {
    const at::Tensor bytes = tensor.to(at::kCPU).contiguous();
    file.write(std::span(static_cast<const std::byte*>(bytes.data_ptr()), bytes.nbytes()));
  }
  file.commit();
}

}  // namespace frameshard
