#include "launcher/resume.h"

#include "core/error.h"
#include "core/io/safetensors.h"
#include "core/log.h"

namespace frameshard {
namespace {

// [steps, tensors]: latents, then the solver's.
struct Saved {
  int64_t steps = 0;
  std::vector<at::Tensor> tensors;
};

std::optional<Saved> read(const std::filesystem::path& file, const DenoiseState& start, int64_t steps) {
  if (!std::filesystem::exists(file)) return std::nullopt;
  try {
    const WeightFiles files = WeightFiles::open(file);
    Saved saved{.steps = files.read("steps").item<int64_t>(), .tensors = {files.read("latents")}};
    for (size_t i = 0; files.find(fmt::format("history.{}", i)); ++i) {
      saved.tensors.push_back(files.read(fmt::format("history.{}", i)));
    }
    for (const at::Tensor& tensor : saved.tensors) {
      const bool fits = tensor.sizes() == start.latents.sizes() && tensor.scalar_type() == at::kFloat;
      if (!fits)
        fail(ExitCode::bad_data, "{}: a tensor of shape {}", file.string(), format_shape(tensor.sizes()));
    }
    if (saved.steps < 1 || saved.steps > steps)
      fail(ExitCode::bad_data, "{}: {} steps of {}", file.string(), saved.steps, steps);
    return saved;
  } catch (const Error& error) {
    log::warning("starts anew, since what was saved cannot be used: {}", error.what());
    return std::nullopt;
  }
}

}  // namespace

void ResumeFile::save(const DenoiseState& state, const NoiseSchedule& schedule) const {
  NamedTensors tensors{{"steps", at::full({1}, state.steps, at::kLong)}, {"latents", state.latents.cpu()}};
  const auto history = schedule.history();
  for (size_t i = 0; i < history.size(); ++i) {
    tensors.emplace_back(fmt::format("history.{}", i), history[i].to(at::kCPU, at::kFloat).contiguous());
  }
  write_safetensors(file_, tensors);
}

DenoiseState ResumeFile::load(const DenoiseState& start, NoiseSchedule& schedule, const at::Device& device,
                              Communicator& replica) const {
  Saved saved;
  if (replica.rank() == 0) saved = read(file_, start, schedule.steps()).value_or(Saved{});
  at::Tensor head = at::tensor({saved.steps, int64_t(saved.tensors.size())});
  replica.broadcast(head, 0);
  saved.steps = head[0].item<int64_t>();
  if (saved.steps == 0) return start;
  saved.tensors.resize(size_t(head[1].item<int64_t>()));
  for (at::Tensor& tensor : saved.tensors) {
    tensor = tensor.defined() ? tensor.contiguous() : at::empty(start.latents.sizes(), at::kFloat);
    replica.broadcast(tensor, 0);
    tensor = tensor.to(device);
  }
  if (replica.rank() == 0) log::info("goes on after step {} of {}", saved.steps, schedule.steps());
  const DenoiseState state{.latents = saved.tensors.front(), .steps = saved.steps};
  saved.tensors.erase(saved.tensors.begin());
  if (!saved.tensors.empty()) schedule.restore(std::move(saved.tensors), state.steps);
  return state;
}

void ResumeFile::remove() const {
  std::error_code ignored;
  std::filesystem::remove(file_, ignored);
}

}  // namespace frameshard
