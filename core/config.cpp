#include "core/config.h"

#include <set>

#include "core/fields_read.h"
#include "core/fields_write.h"
#include "core/hash.h"
#include "core/text.h"

namespace frameshard {
namespace {

// What must fit together.
class CrossCheck {
 public:
  CrossCheck(const RunConfig& config, const Origins* origins) : config_(config), origins_(origins) {}

  void check_which_requests() const {
    const bool list_given = !config_.requests.empty() || (origins_ && origins_->given("requests"));
    if (config_.request && list_given) {
      fail_at("requests", "both request and requests are given; keep one of them");
    }
    if (config_.request || !config_.requests.empty()) return;
    if (list_given) fail_at("requests", "requests is an empty list; it needs at least one request");
    fail_at("", "request (or requests, a list) must be given");
  }

  void check_values() const {
    if (config_.request) check_request(*config_.request, "request");
    for (std::size_t i = 0; i < config_.requests.size(); ++i) {
      check_request(config_.requests[i], fmt::format("requests.{}", i));
    }
    check_ids();
    check_attention();
  }

 private:
  template <class... Args>
  [[noreturn]] void fail_at(const std::string& path, fmt::format_string<Args...> format,
                            Args&&... args) const {
    const std::string place = origins_ ? origins_->where(path) + ": " : "";
    fail(ExitCode::config, "{}{}", place, fmt::format(format, std::forward<Args>(args)...));
  }

  void check_request(const RequestConfig& request, const std::string& path) const {
    if (request.seed > std::numeric_limits<int64_t>::max() - (request.batch_size - 1)) {
      fail_at(path + ".seed", "{}.seed + {}.batch_size - 1 must be below 2^63: video i uses seed + i", path,
              path);
    }
    const AutoOr<int64_t>& cfg_size = config_.infer.diffusion.cfg_size;
    if (request.uses_guidance() || cfg_size.is_auto() || *cfg_size.value == 1) return;
    fail_at(
        "infer.diffusion.cfg_size",
        "infer.diffusion.cfg_size must be 1 or auto, got {}: guidance is off, since {}.guidance_scale is {}",
        *cfg_size.value, path, request.guidance_scale);
  }

  void check_ids() const {
    std::map<std::string, std::size_t> seen;
    for (std::size_t i = 0; i < config_.requests.size(); ++i) {
      const std::string& id = config_.requests[i].id;
      if (id.empty()) continue;
      const auto [first, added] = seen.emplace(id, i);
      if (added) continue;
      fail_at(fmt::format("requests.{}.id", i), "requests.{}.id and requests.{}.id are both {}",
              first->second, i, quote_for_message(id));
    }
  }

  void check_attention() const {
    const auto& cp = config_.infer.diffusion.cp_size.value;
    const auto& ulysses = config_.infer.attention.ulysses_size.value;
    const auto& ring = config_.infer.attention.ring_size.value;
    if (!cp || !ulysses || !ring || *ulysses * *ring == *cp) return;
    fail_at("infer.attention",
            "infer.attention.ulysses_size * ring_size must equal infer.diffusion.cp_size, got {} * {} = {}, "
            "not {}",
            *ulysses, *ring, *ulysses * *ring, *cp);
  }

  const RunConfig& config_;
  const Origins* origins_;
};

void check(const RunConfig& config, const Origins* origins) {
  const CrossCheck cross(config, origins);
  cross.check_which_requests();
  check_value(config, "", origins);
  cross.check_values();
}

void apply(RunConfig& config, const std::string& text, Origins& origins) {
  override_value(config, split_assignment(text), 0, "", origins);
}

// A name that is a directory below the output directory and nowhere else.
std::string run_name(const std::filesystem::path& file) {
  std::string name = file.stem().string();
  if (name == "." || name == "..") {
    fail(ExitCode::config, "{}: the name of a config file names its outputs; {} cannot", file.string(),
         quote_for_message(name));
  }
  return name;
}

}  // namespace

RunConfig load_run_config(const std::filesystem::path& file, std::span<const std::string> overrides) {
  const YamlNode tree = parse_yaml_file(file);
  RunConfig config;
  config.name = run_name(file);
  Origins origins({std::make_shared<const std::string>(file.string()), 0, 0});
  parse_value(tree, config, "", origins);
  for (const std::string& text : overrides) apply(config, text, origins);
  check(config, &origins);
  return config;
}

void apply_override(RunConfig& config, const std::string& assignment) {
  RunConfig changed = config;
  Origins origins;
  apply(changed, assignment, origins);
  config = std::move(changed);
}

void check_config(const RunConfig& config) {
  check(config, nullptr);
}

std::vector<RequestConfig> all_requests(const RunConfig& config) {
  if (config.request) return {*config.request};
  std::vector<RequestConfig> requests = config.requests;
  std::set<std::string> used;
  for (const RequestConfig& request : requests) used.insert(request.id);
  for (std::size_t i = 0; i < requests.size(); ++i) {
    for (std::size_t number = i; requests[i].id.empty(); ++number) {
      const std::string id = fmt::format("{:04}", number);
      if (used.insert(id).second) requests[i].id = id;
    }
  }
  return requests;
}

std::string dump_yaml(const RunConfig& config) {
  std::string out;
  dump_struct(out, config, 0);
  return out;
}

std::vector<std::pair<std::string, std::string>> flatten(const RunConfig& config) {
  std::vector<std::pair<std::string, std::string>> out;
  flatten_value(config, "", out);
  return out;
}

std::string config_hash(const RunConfig& config) {
  std::string text;
  for (const auto& [key, value] : flatten(config)) {
    if (key.starts_with("infer.") || key.starts_with("output.")) continue;
    text += key + "=" + value + "\n";
  }
  return fmt::format("{:016x}", fnv1a(text));
}

std::vector<KeyInfo> config_keys() {
  std::vector<KeyInfo> keys;
  list_keys(RunConfig{}, "", keys);
  return keys;
}

}  // namespace frameshard
