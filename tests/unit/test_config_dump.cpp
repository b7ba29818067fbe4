#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "core/config.h"
#include "core/fields_read.h"
#include "core/fields_write.h"
#include "tests/support/catch.h"
#include "tests/support/config_files.h"
#include "tests/support/expect_error.h"

using namespace frameshard;
using namespace frameshard::test;

namespace {

const std::string base = "model: {path: m}\nrequest: {prompt: p}\n";
const std::string with_list = "model: {path: m}\nrequests: [{prompt: a}, {prompt: b}]\n";

RunConfig overridden(const std::vector<std::string>& overrides) {
  return load(base, overrides);
}

// One field of each type that no config has yet.
struct Everything {
  std::vector<std::string> names;
  std::vector<int64_t> sizes;
  AutoOr<double> weight;
  AutoOr<bool> fast;
  std::optional<bool> loud;
  std::optional<int64_t> count;

  bool operator==(const Everything&) const = default;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("names", self.names, "list of texts");
    visit("sizes", self.sizes, "list of integers");
    visit("weight", self.weight, "number or auto", in_range(0.0, 1.0));
    visit("fast", self.fast, "or auto");
    visit("loud", self.loud, "or null");
    visit("count", self.count, "or null", in_range(1, 3));
  }
};

RunConfig filled(const std::string& text) {
  RunConfig config;
  config.model = {"m" + text, "bfloat16", "float16"};
  config.request.emplace();
  RequestConfig& request = *config.request;
  request.id = "an-id.1";
  request.prompt = text;
  request.negative_prompt = text + text;
  request.width = 16;
  request.height = 8192;
  request.num_frames = 5;
  request.num_inference_steps = 7;
  request.guidance_scale = 0.1 + 0.2;
  request.seed = std::numeric_limits<int64_t>::max();
  request.max_sequence_length = 2;
  request.latents = "l" + text;
  config.infer.diffusion = {{4}, {1}, {3}};
  config.infer.attention = {{2}, {2}};
  config.infer.backend = "mpi";
  config.infer.device = "cpu";
  config.infer.threads_per_rank = {9};
  config.infer.vae_parallel_size = {3};
  config.infer.share_weights = false;
  config.infer.overlap_exchange = "on";
  config.infer.cuda_graph = "off";
  config.devices = {{"cuda:1", 70.5}, {"cpu", 0}};
  config.lora = {{"f" + text, -0.7, true}, {"g", 1, false}};
  config.lossy = {0.1 + 0.2, true, "on"};
  config.scheduler = {3.0000000000000004, "euler", "wan"};
  config.output = {"o" + text, 24, true, true};
  config.name = "a";
  return config;
}

}  // namespace

TEST_CASE("a dump reads back to the same configuration") {
  for (const std::string& text : nasty_texts) {
    const RunConfig config = filled(text);
    const std::string dump = dump_yaml(config);
    INFO(dump);
    CHECK(load(dump) == config);
    RunConfig list = config;
    list.requests = {*config.request, *config.request};
    list.requests[1].id = "other";
    list.request.reset();
    CHECK(load(dump_yaml(list)) == list);
  }
  CHECK(load(dump_yaml(overridden({}))) == overridden({}));
}

TEST_CASE("a dump of a prompt with every character reads back") {
  RunConfig config = overridden({});
  std::string& text = config.request->prompt;
  for (char32_t c = 1; c < 0x3000; ++c) {
    if (c < 0x80) {
      text += static_cast<char>(c);
    } else if (c < 0x800) {
      text += {static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 63))};
    } else {
      text += {static_cast<char>(0xE0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 63)),
               static_cast<char>(0x80 | (c & 63))};
    }
  }
  CHECK((load(dump_yaml(config)) == config));
}

TEST_CASE("numbers survive a dump") {
  RunConfig config = overridden({});
  for (const double value : {0.0, 1e-300, 5e-324, 1.0 / 3, 0.1, 99.99999999999999, 1e-7, 100.0}) {
    config.request->guidance_scale = value;
    CHECK(load(dump_yaml(config)).request->guidance_scale == value);
  }
}

TEST_CASE("what cannot be written as YAML is refused") {
  RunConfig config = overridden({});
  config.request->prompt = "\xFF";
  CHECK(caught([&] { dump_yaml(config); }).has("not valid UTF-8"));
  config.request->prompt = std::string("a\0b", 3);
  CHECK(caught([&] { dump_yaml(config); }).code == ExitCode::config);
}

TEST_CASE("every field type is read, dumped and overridden") {
  Everything value;
  Origins origins;
  const auto apply = [&](const char* text) { override_value(value, split_assignment(text), 0, "", origins); };
  for (const char* text : {"names=[a, \"5\", 6]", "names.1=x: y", "sizes=[010, -2]", "sizes.0=3",
                           "weight=0.5", "fast=true", "loud=false", "count=3"}) {
    apply(text);
  }
  CHECK(value == Everything{{"a", "x: y", "6"}, {3, -2}, {0.5}, {true}, false, 3});
  check_value(value, "", &origins);
  std::string dump;
  dump_struct(dump, value, 0);
  Everything again;
  parse_value(parse_yaml_text(dump, "dump"), again, "", origins);
  CHECK(again == value);
  for (const char* text : {"weight=auto", "fast=auto", "loud=null", "count=null", "sizes=[]"}) apply(text);
  CHECK(value == Everything{{"a", "x: y", "6"}, {}, {}, {}, std::nullopt, std::nullopt});
  CHECK(caught([&] { apply("sizes=[1, x]"); }).has("sizes.1 must be an integer, got \"x\""));
  CHECK(caught([&] { apply("sizes={a: 3}"); }).has("sizes must be a list, got"));
  apply("sizes=3");
  CHECK(value.sizes == std::vector<int64_t>{3});  // a list of one
  CHECK(caught([&] { apply("names=[null]"); }).has("names.0 must be a string, got null"));
  CHECK(caught([&] { apply("fast=null"); }).has("fast must be auto or true or false, got null"));
  apply("count=4");
  CHECK(caught([&] { check_value(value, "", &origins); }).message ==
        "override count=4: count must be between 1 and 3, got 4");
}

TEST_CASE("a dump is plain to read") {
  const std::string dump = dump_yaml(overridden({"request.prompt=a red circle"}));
  CHECK(
      dump.starts_with("model:\n  path: m\n  dtype: auto\n  vae_dtype: float32\nrequest:\n  id: \"\"\n"
                       "  prompt: \"a red circle\"\n"));
  CHECK(dump.find("  diffusion:\n    cp_size: auto\n") != std::string::npos);
  CHECK(dump.find("  guidance_scale: 5.0\n") != std::string::npos);
  CHECK(dump.find("requests") == std::string::npos);
  const std::string list = dump_yaml(load(with_list));
  CHECK(list.find("requests:\n  - id: \"\"\n    prompt: a\n") != std::string::npos);
}

TEST_CASE("flat pairs to compare between ranks") {
  const auto flat = flatten(load(with_list));
  const auto has = [&](const std::string& key, const std::string& value) {
    return std::find(flat.begin(), flat.end(), std::pair(key, value)) != flat.end();
  };
  CHECK(has("model.path", "m"));
  CHECK(has("request", "null"));
  CHECK(has("requests.1.prompt", "b"));
  CHECK(has("requests.1.seed", "0"));
  CHECK(has("infer.diffusion.cp_size", "auto"));
  CHECK(has("scheduler.flow_shift", "null"));
  CHECK(std::find_if(flat.begin(), flat.end(), [](const auto& pair) { return pair.first == "name"; }) ==
        flat.end());
  const auto single = flatten(overridden({}));
  CHECK(std::find(single.begin(), single.end(), std::pair<std::string, std::string>("requests", "[]")) !=
        single.end());
}

TEST_CASE("the hash covers what determines the result") {
  const std::string hash = config_hash(overridden({}));
  CHECK(hash == "37e77aed7fb2c26a");  // frozen: outputs carry it
  for (const char* same : {"output.fps=24", "output.directory=x", "infer.diffusion.cp_size=2",
                           "infer.device=cpu", "request.id=x", "lora=[]",
                           "devices=[{weight: 2}, {weight: 1, device: cpu}]"}) {
    CHECK(config_hash(overridden({same})) == hash);
  }
  for (const char* other : {"request.seed=1", "request.prompt=q", "model.path=n", "scheduler.sigmas=wan",
                            "lossy.step_cache=0.1", "lossy.vae_tiling=on", "lora=[{path: l}]",
                            "devices=[{dtype: bfloat16}]"}) {
    CHECK(config_hash(overridden({other})) != hash);
  }
  const std::string with_lora = config_hash(overridden({"lora=[{path: l}]"}));
  for (const char* other : {"lora=[{path: k}]", "lora=[{path: l, scale: 2}]", "lora=[{path: l, merge: true}]",
                            "lora=[{path: l}, {path: l}]"}) {
    CHECK(config_hash(overridden({other})) != with_lora);
  }
}
TEST_CASE("all keys, so that a changed option is noticed") {
  std::vector<std::string> keys;
  for (const KeyInfo& key : config_keys()) {
    keys.push_back(key.key);
    CHECK_FALSE(key.help.empty());
    CHECK_FALSE(key.type.empty());
  }
  CHECK(keys == std::vector<std::string>{"model.path",
                                         "model.dtype",
                                         "model.vae_dtype",
                                         "request.id",
                                         "request.prompt",
                                         "request.prompts",
                                         "request.negative_prompt",
                                         "request.width",
                                         "request.height",
                                         "request.num_frames",
                                         "request.num_inference_steps",
                                         "request.guidance_scale",
                                         "request.seed",
                                         "request.max_sequence_length",
                                         "request.batch_size",
                                         "request.context.window",
                                         "request.context.overlap",
                                         "request.latents",
                                         "requests",
                                         "infer.diffusion.cp_size",
                                         "infer.diffusion.cfg_size",
                                         "infer.diffusion.dp_size",
                                         "infer.attention.ulysses_size",
                                         "infer.attention.ring_size",
                                         "infer.backend",
                                         "infer.device",
                                         "infer.parallel",
                                         "infer.max_devices",
                                         "infer.missing_devices",
                                         "infer.low_memory",
                                         "infer.rebalance",
                                         "infer.threads_per_rank",
                                         "infer.vae_parallel_size",
                                         "infer.pin_threads",
                                         "infer.share_weights",
                                         "infer.overlap_exchange",
                                         "infer.cuda_graph",
                                         "devices",
                                         "place.denoiser",
                                         "place.text_encoder",
                                         "place.vae",
                                         "lora",
                                         "lossy.step_cache",
                                         "lossy.float8_linear",
                                         "lossy.vae_tiling",
                                         "scheduler.flow_shift",
                                         "scheduler.solver",
                                         "scheduler.sigmas",
                                         "output.directory",
                                         "output.fps",
                                         "output.save_latents",
                                         "output.overwrite"});
}

TEST_CASE("a key is listed with type, limits and default") {
  const auto keys = config_keys();
  const auto find = [&](const std::string& name) {
    return *std::find_if(keys.begin(), keys.end(), [&](const KeyInfo& key) { return key.key == name; });
  };
  CHECK(find("request.width").type == "an integer");
  CHECK(find("request.width").limits == "a multiple of 16 between 16 and 8192");
  CHECK(find("request.width").default_value == "832");
  CHECK(find("request.guidance_scale").default_value == "5.0");
  CHECK(find("infer.diffusion.cp_size").type == "auto or an integer");
  CHECK(find("infer.diffusion.cp_size").default_value == "auto");
  CHECK(find("scheduler.flow_shift").type == "a number or null");
  CHECK(find("scheduler.flow_shift").default_value == "null");
  CHECK(find("model.path").limits == "required, not empty");
  CHECK(find("requests").type == "a list");
  CHECK(find("requests").default_value == "[]");
}
