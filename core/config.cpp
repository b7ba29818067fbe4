#include "core/config.h"

#include <algorithm>
#include <set>
#include <utility>

#include "core/fields_read.h"
#include "core/fields_write.h"
#include "core/hash.h"
#include "core/io/run_directory.h"
#include "core/request_source.h"
#include "core/text.h"

namespace frameshard {
namespace {

// What must fit together.
class CrossCheck {
 public:
  CrossCheck(const RunConfig& config, const Origins* origins) : config_(config), origins_(origins) {}

  void check_which_requests() const {
    if (!config_.requests.empty()) return;
    if (origins_ && origins_->given("requests")) {
      fail_at("requests", "requests is an empty list; it needs at least one request");
    }
    if (!config_.request) fail_at("", "request (or requests, a list) must be given");
  }

  // What decides where a video is written, or what it shows at all, must be right for the list to be read.
  void check_names() const {
    for (std::size_t i = 0; i < config_.requests.size(); ++i) {
      RequestConfig name;
      name.id = config_.requests[i].id;
      check_value(name, list_path(i), origins_);
    }
    check_ids();
  }

  void check_values(RequestFaults* faults) const {
    if (config_.request) check_request(*config_.request, "request");
    for (std::size_t i = 0; i < config_.requests.size(); ++i) {
      try {
        check_value(config_.requests[i], list_path(i), origins_);
        check_request(config_.requests[i], list_path(i));
      } catch (const Error& error) {
        if (!faults) throw;
        faults->emplace(i, RequestFault{error.code(), error.what()});
      }
    }
    check_attention();
    check_devices();
  }

 private:
  template <class... Args>
  [[noreturn]] void fail_at(const std::string& path, fmt::format_string<Args...> format,
                            Args&&... args) const {
    const std::string place = origins_ ? origins_->where(path) + ": " : "";
    fail(ExitCode::config, "{}{}", place, fmt::format(format, std::forward<Args>(args)...));
  }

  static std::string list_path(std::size_t i) { return fmt::format("requests.{}", i); }

  void check_request(const RequestConfig& request, const std::string& path) const {
    if (request.seed > std::numeric_limits<int64_t>::max() - (request.batch_size - 1)) {
      fail_at(path + ".seed", "{}.seed + {}.batch_size - 1 must be below 2^63: video i uses seed + i", path,
              path);
    }
    check_prompts(request, path);
    check_context(request, path);
    const AutoOr<int64_t>& cfg_size = config_.infer.diffusion.cfg_size;
    const int64_t most = request.conditionings();
    if (cfg_size.is_auto() || *cfg_size.value <= most || request.context) return;  // windows: see the plan
    if (most == 1) {
      fail_at("infer.diffusion.cfg_size",
              "infer.diffusion.cfg_size must be 1 or auto, got {}: guidance is off, since {}.guidance_scale "
              "is {}",
              *cfg_size.value, path, request.guidance_scale);
    }
    fail_at("infer.diffusion.cfg_size",
            "infer.diffusion.cfg_size must be at most {} or auto, got {}: {} has {} texts to compute{}", most,
            *cfg_size.value, path, most, request.uses_guidance() ? ", the negative one included" : "");
  }

  void check_prompts(const RequestConfig& request, const std::string& path) const {
    if (request.prompts.empty() && origins_ && origins_->given(path + ".prompts") &&
        !origins_->given(path + ".prompt")) {
      fail_at(path + ".prompts", "{}.prompts is an empty list; it needs at least one prompt", path);
    }
    if (request.prompts.empty() || request.prompt.empty()) return;
    fail_at(path + ".prompts", "{}.prompt and {}.prompts are both given; move the one into the others", path,
            path);
  }

  void check_context(const RequestConfig& request, const std::string& path) const {
    if (!request.context || request.context->overlap < request.context->window) return;
    fail_at(path + ".context", "{}.context.overlap must be less than its window, {}, got {}", path,
            request.context->window, request.context->overlap);
  }

  void check_ids() const {
    std::map<std::string, std::size_t> seen;
    for (std::size_t i = 0; i < config_.requests.size(); ++i) {
      const std::string& id = config_.requests[i].id;
      if (id.empty()) continue;
      const auto [first, added] = seen.emplace(id, i);
      if (added) continue;
      const std::string place = origins_ ? origins_->where(list_path(first->second) + ".id") : "";
      fail_at(list_path(i) + ".id", "requests.{}.id and requests.{}.id are both {}{}", first->second, i,
              quote_for_message(id), place.empty() ? "" : "; the first is at " + place);
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

  void check_devices() const {
    if (!config_.devices.empty() && !config_.place.denoiser.empty()) {
      fail_at("place.denoiser", "place.denoiser and devices both say where the denoiser runs; leave one out");
    }
    const auto measured = std::count_if(config_.devices.begin(), config_.devices.end(),
                                        [](const DeviceConfig& each) { return each.weight.is_auto(); });
    if (measured == 0 || measured == std::ptrdiff_t(config_.devices.size())) return;
    fail_at("devices",
            "devices gives {} of {} weights as auto; measured speeds and numbers have no common "
            "unit: give all of them, or none",
            measured, config_.devices.size());
  }

  const RunConfig& config_;
  const Origins* origins_;
};

void check(RunConfig config, const Origins* origins, RequestFaults* faults = nullptr) {
  const CrossCheck cross(config, origins);
  cross.check_which_requests();
  cross.check_names();
  std::vector<RequestConfig> list = std::exchange(config.requests, {});
  check_value(config, "", origins);
  config.requests = std::move(list);
  cross.check_values(faults);
}

// `requests: prompts.jsonl`: the list takes its path's place.
void read_source(YamlNode& node) {
  if (node.kind != YamlNode::Kind::scalar) return;
  if (node.text.empty()) {
    fail(ExitCode::config, "{}: requests must be a list or the path of one, got an empty text",
         node.location.text());
  }
  node = read_requests(node.text);
}

void read_sources(YamlNode& tree) {
  for (auto& [key, value] : tree.entries) {
    if (key.text == "requests") read_source(value);
  }
}

void apply(RunConfig& config, const std::string& text, Origins& origins) {
  const Assignment assignment = split_assignment(text);
  const auto& keys = assignment.keys;
  if (keys[0] == "requests" && keys.size() == 1) {
    YamlNode node = parse_yaml_text(assignment.value, assignment.label.text(), Positions::hidden);
    read_source(node);
    return parse_value(node, config.requests, "requests", origins);
  }
  if (keys[0] == "requests" && config.requests.empty() && config.request) {
    const std::string meant =
        keys.size() > 2 ? fmt::format("request.{}", fmt::join(keys.begin() + 2, keys.end(), ".")) : "request";
    fail(ExitCode::config, "{}: this config has request and no list of requests; use {}={}",
         assignment.label.text(), meant, assignment.value);
  }
  override_value(config, assignment, 0, "", origins);
  // prompt and prompts take each other's place.
  if (keys.size() != 2 || keys[0] != "request" || !config.request) return;
  if (keys[1] == "prompts") config.request->prompt.clear();
  if (keys[1] == "prompt") config.request->prompts.clear();
}

// What `request` says beside a list is shared by all of it.
void share_request(RunConfig& config, Origins& origins) {
  if (config.requests.empty() || !config.request) return;
  const RequestConfig shared = *std::exchange(config.request, std::nullopt);
  if (!shared.id.empty()) {
    fail(ExitCode::config,
         "{}: request.id cannot be shared; give each of the requests an id of its own, or none",
         origins.where("request.id"));
  }
  for (std::size_t i = 0; i < config.requests.size(); ++i) {
    const std::string own = fmt::format("requests.{}", i);
    const bool one = origins.given(own + ".prompt"), several = origins.given(own + ".prompts");
    inherit_value(config.requests[i], own, shared, "request", origins);
    if (one && !several) config.requests[i].prompts.clear();
    if (several && !one) config.requests[i].prompt.clear();
  }
  // It need not be a whole request.
  if (!origins.given("request.prompt")) origins.set("request.prompt", Location(origins.place("request")));
  check_value(shared, "request", &origins);
}

RunConfig load(const std::filesystem::path& file, std::span<const std::string> overrides,
               RequestFaults* faults) {
  YamlNode tree = parse_yaml_file(file);
  read_sources(tree);
  RunConfig config;
  config.name = run_name(file);
  Origins origins({std::make_shared<const std::string>(file.string()), 0, 0});
  parse_value(tree, config, "", origins);
  for (const std::string& text : overrides) apply(config, text, origins);
  share_request(config, origins);
  check(config, &origins, faults);
  return config;
}

}  // namespace

RunConfig load_run_config(const std::filesystem::path& file, std::span<const std::string> overrides) {
  return load(file, overrides, nullptr);
}

RunConfig load_run_config(const std::filesystem::path& file, std::span<const std::string> overrides,
                          RequestFaults& faults) {
  return load(file, overrides, &faults);
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

std::vector<PromptConfig> RequestConfig::all_prompts() const {
  if (!prompts.empty()) return prompts;
  return {{.text = prompt}};
}

int64_t RequestConfig::conditionings() const {
  return std::max<int64_t>(1, int64_t(prompts.size())) + (uses_guidance() ? 1 : 0);
}

std::vector<RequestConfig> all_requests(const RunConfig& config) {
  if (config.requests.empty()) return {*config.request};
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

RunConfig one_video_config(const RunConfig& config, const RequestConfig& request, int64_t sample) {
  RunConfig one{.model = config.model,
                .request = request,
                .requests = {},
                .infer = config.infer,
                .devices = config.devices,
                .place = config.place,
                .lora = config.lora,
                .lossy = config.lossy,
                .scheduler = config.scheduler,
                .output = config.output,
                .name = config.name};
  one.request->seed += sample;
  one.request->batch_size = 1;
  return one;
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
  auto under = [](const std::string& key, std::initializer_list<const char*> parents) {
    return std::any_of(parents.begin(), parents.end(), [&](auto parent) { return key.starts_with(parent); });
  };
  // Options that came later count where they are used, so that older outputs are still known.
  std::string text;
  for (const auto& [key, value] : flatten(config)) {
    const bool changes_type = under(key, {"devices"}) && key.ends_with(".dtype") && value != "auto";
    if (!changes_type && under(key, {"infer.", "output.", "devices", "place."})) continue;
    if (key == "request.id") continue;
    if (config.lossy == LossyConfig() && under(key, {"lossy."})) continue;
    if (under(key, {"request.prompts", "request.context", "lora"}) && (value == "[]" || value == "null"))
      continue;
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
