#include "launcher/resume.h"

#include <bit>

#include "core/error.h"
#include "core/hash.h"
#include "core/io/safetensors.h"
#include "core/log.h"

namespace frameshard {
namespace {

// [steps, tensors]: latents, then the solver's.
struct Saved {
  int64_t steps = 0;
  std::vector<at::Tensor> tensors;
};

int64_t hash_number(std::string_view bytes) {
  return std::bit_cast<int64_t>(fnv1a(bytes));
}

// Of the number of steps and each tensor's bytes.
int64_t checksum(int64_t steps, const std::vector<at::Tensor>& tensors) {
  std::string hashes = std::to_string(steps);
  for (const at::Tensor& tensor : tensors) {
    const at::Tensor bytes = tensor.contiguous();
    hashes += fmt::format(" {:016x}", fnv1a({static_cast<const char*>(bytes.data_ptr()), bytes.nbytes()}));
  }
  return hash_number(hashes);
}

int64_t read_number(const WeightFiles& files, const char* name) {
  const at::Tensor number = files.read(name);
  if (number.numel() != 1 || number.scalar_type() != at::kLong)
    fail(ExitCode::bad_data, "{}: {} is no number", files.files().front().string(), name);
  return number.item<int64_t>();
}

std::optional<Saved> read(const std::filesystem::path& file, const std::string& config_hash,
                          const DenoiseState& start, int64_t steps) {
  if (!std::filesystem::exists(file)) return std::nullopt;
  try {
    const WeightFiles files = WeightFiles::open(file);
    Saved saved{.steps = read_number(files, "steps"), .tensors = {files.read("latents")}};
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
    if (read_number(files, "config_hash") != hash_number(config_hash))
      fail(ExitCode::bad_data, "{}: it is of another configuration", file.string());
    if (read_number(files, "checksum") != checksum(saved.steps, saved.tensors))
      fail(ExitCode::bad_data, "{}: its checksum does not fit its content", file.string());
    return saved;
  } catch (const Error& error) {
    log::warning("starts anew, since what was saved cannot be used: {}", error.what());
    return std::nullopt;
  }
}

}  // namespace

void ResumeFile::save(const DenoiseState& state) const {
  std::vector<at::Tensor> tensors{state.latents.cpu().contiguous()};
  for (const at::Tensor& each : state.history) {
    tensors.push_back(each.to(at::kCPU, at::kFloat).contiguous());
  }
  const auto number = [](int64_t value) { return at::full({1}, value, at::kLong); };
  NamedTensors named{{"steps", number(state.steps)},
                     {"config_hash", number(hash_number(config_hash_))},
                     {"checksum", number(checksum(state.steps, tensors))},
                     {"latents", tensors.front()}};
  for (size_t i = 1; i < tensors.size(); ++i) {
    named.emplace_back(fmt::format("history.{}", i - 1), tensors[i]);
  }
  write_safetensors(file_, named);
}

DenoiseState ResumeFile::load(const DenoiseState& start, NoiseSchedule& schedule, const at::Device& device,
                              Communicator& replica) const {
  Saved saved;
  if (replica.rank() == 0) saved = read(file_, config_hash_, start, schedule.steps()).value_or(Saved{});
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
