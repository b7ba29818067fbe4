// The text embeddings of all requests, made before the denoiser is loaded.
#pragma once

#include <map>
#include <span>
#include <string>
#include <utility>

#include "models/pipeline.h"
#include "parallel/comm/host_group.h"

namespace frameshard {

/// How texts are encoded: where and in which dtype the encoder is, who loads it, and the dtype of what it
/// makes.
struct TextLoad {
  std::function<std::shared_ptr<const TextEncoder>(const LoadOptions&)> load;
  LoadOptions encoder;
  at::ScalarType dtype = at::kFloat;
};

/// Each distinct prompt is encoded once, by the first rank of one replica; the text encoder is then freed.
/// The first ranks of all replicas keep every embedding, on the CPU and without padding: any of them may have
/// to make any request.
class PromptEmbeddings {
 public:
  /// Collective over the mesh. Encodes prompts and, where guidance is on, negative prompts. With `sharing`,
  /// text encoders of a host are loaded together, whatever `load` says.
  PromptEmbeddings(std::span<const RequestConfig> requests, const TextLoad& load, ProcessMesh& mesh,
                   const HostSharing* sharing = nullptr);

  /// The embeddings of one of the requests, on the CPU, in TextLoad::dtype. Collective over the replica.
  Conditioning of(const RequestConfig& request) const;

 private:
  using Key = std::pair<std::string, int64_t>;  // prompt, max_sequence_length

  void encode(const TextLoad& load, const HostSharing* sharing);
  void exchange();
  at::Tensor get(const std::string& prompt, int64_t length) const;

  at::ScalarType dtype_;
  ProcessMesh& mesh_;
  std::map<Key, at::Tensor> known_;  // [tokens, text_dim] on the first rank of the replica
};

}  // namespace frameshard
