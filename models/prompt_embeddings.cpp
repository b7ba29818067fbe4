#include "models/prompt_embeddings.h"

#include <c10/core/GradMode.h>

#include "core/device.h"
#include "core/phase.h"
#include "models/common/text_rows.h"

namespace frameshard {
namespace {

// [1, T, width] -> [tokens, width] on the CPU: rows past the prompt's tokens are 0.
at::Tensor without_padding(const at::Tensor& embedding) {
  const at::Tensor host = embedding.to(at::kCPU);
  return host.squeeze(0).narrow(0, 0, used_rows(host)).clone();
}

// A matrix from `root` to all ranks of the group; `mine` is undefined on the others.
at::Tensor broadcast_matrix(const at::Tensor& mine, at::ScalarType dtype, Communicator& group, int root) {
  at::Tensor shape = at::zeros({2}, at::kLong);
  if (group.rank() == root) shape = at::tensor({mine.size(0), mine.size(1)}, at::kLong);
  group.broadcast(shape, root);
  at::Tensor matrix = group.rank() == root ? mine
                                           : at::empty({shape[0].item<int64_t>(), shape[1].item<int64_t>()},
                                                       at::TensorOptions().dtype(dtype));
  group.broadcast(matrix, root);
  return matrix;
}

}  // namespace

PromptEmbeddings::PromptEmbeddings(std::span<const RequestConfig> requests, const TextLoad& load,
                                   ProcessMesh& mesh, const HostSharing* sharing)
    : dtype_(load.dtype), mesh_(mesh) {
  set_phase("text");
  if (mesh.replica().rank() != 0) return;
  for (const RequestConfig& request : requests) {
    for (const PromptConfig& prompt : request.all_prompts())
      known_[{prompt.text, request.max_sequence_length}];
    if (request.uses_guidance()) known_[{request.negative_prompt, request.max_sequence_length}];
  }
  encode(load, sharing);
  exchange();
}

// Replica i takes the i-th text, the (i + dp)-th, and so on.
void PromptEmbeddings::encode(const TextLoad& load, const HostSharing* sharing) {
  const c10::NoGradGuard no_grad;
  const bool has_work = mesh_.dp().rank() < int(known_.size());
  const auto host = sharing ? sharing->among(mesh_.dp(), has_work) : nullptr;
  LoadOptions options = load.encoder;
  options.host = host.get();
  std::shared_ptr<const TextEncoder> encoder;
  int64_t number = 0;
  for (auto& [key, embedding] : known_) {
    if (number++ % mesh_.dp().size() != mesh_.dp().rank()) continue;
    if (!encoder) encoder = load.load(options);
    embedding = without_padding(encoder->encode(key.first, key.second)).to(dtype_);
  }
  encoder.reset();
  release_cached_memory(load.encoder.device);
}

void PromptEmbeddings::exchange() {
  int64_t number = 0;
  for (auto& [key, embedding] : known_) {
    embedding = broadcast_matrix(embedding, dtype_, mesh_.dp(), int(number++ % mesh_.dp().size()));
  }
}

Conditioning PromptEmbeddings::of(const RequestConfig& request) const {
  Conditioning text;
  for (const PromptConfig& prompt : request.all_prompts()) {
    text.cond.push_back(get(prompt.text, request.max_sequence_length));
  }
  if (request.uses_guidance()) text.uncond = get(request.negative_prompt, request.max_sequence_length);
  return text;
}

at::Tensor PromptEmbeddings::get(const std::string& prompt, int64_t length) const {
  const bool first = mesh_.replica().rank() == 0;
  const at::Tensor mine = first ? known_.at({prompt, length}) : at::Tensor();
  const at::Tensor tokens = broadcast_matrix(mine, dtype_, mesh_.replica(), 0);
  return at::constant_pad_nd(tokens, {0, 0, 0, length - tokens.size(0)}).unsqueeze(0);
}

}  // namespace frameshard
