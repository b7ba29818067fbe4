#include <filesystem>
#include <string>
#include <vector>

#include "core/config.h"
#include "core/train_config.h"
#include "tests/support/catch.h"
#include "tests/support/config_files.h"
#include "tests/support/expect_error.h"

using namespace frameshard;
using namespace frameshard::test;

namespace {

RunConfig round_trip(const RunConfig& config) {
  const std::string text = dump_yaml(config);
  INFO(text);
  RunConfig again = load(text);
  again.name = config.name;
  return again;
}

}  // namespace

TEST_CASE("defaults are those of the documentation") {
  const RunConfig config = load(model_line + "request: {prompt: p}\n");
  CHECK(config.name == "a");
  CHECK(config.model == ModelConfig{"m", "auto", "float32"});
  REQUIRE(config.request);
  CHECK(config.request->width == 832);
  CHECK(config.request->height == 480);
  CHECK(config.request->num_frames == 81);
  CHECK(config.request->num_inference_steps == 50);
  CHECK(config.request->guidance_scale == 5.0);
  CHECK(config.request->max_sequence_length == 512);
  CHECK_FALSE(config.request->latents);
  CHECK(config.infer.diffusion.cp_size.is_auto());
  CHECK(config.output == OutputConfig{"outputs", 16, false, false});
  CHECK(config.scheduler == SchedulerConfig{std::nullopt, std::nullopt, "diffusers"});
}

TEST_CASE("every file in configs loads and dumps") {
  std::size_t count = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(FRAMESHARD_SOURCE_DIR "/configs")) {
    if (entry.path().extension() != ".yaml") continue;
    INFO(entry.path());
    ++count;
    const bool trains = entry.path().filename().string().starts_with("train-") ||
                        entry.path().parent_path().filename() == "from-nothing";
    if (trains) {
      load_train_config(entry.path());
      continue;
    }
    const RunConfig config = load_run_config(entry.path());
    CHECK(round_trip(config) == config);
  }
  CHECK(count >= 9);
}

TEST_CASE("the quick start is small") {
  const RunConfig config = load_run_config(FRAMESHARD_SOURCE_DIR "/configs/quickstart.yaml");
  CHECK(config.name == "quickstart");
  CHECK(config.model.path == "examples/shapes");
  RequestConfig wanted;
  wanted.prompt = "a red circle moving left on a black background";
  wanted.width = wanted.height = 128;
  wanted.num_frames = 33;
  wanted.num_inference_steps = 20;
  wanted.max_sequence_length = 64;
  CHECK(config.request == wanted);
  CHECK(config.infer == InferConfig{});
}

TEST_CASE("unknown keys are named with what was meant") {
  check_config_refused(model_line + "request:\n  widht: 5\n", ":3:3",
                       "unknown key \"widht\" in request; did you mean \"width\"? Known keys: id, prompt, ");
  check_config_refused("modle: {}\n", ":1:1",
                       "unknown key \"modle\" at the top level; did you mean \"model\"?");
  check_config_refused("zebra: 1\n", ":1:1",
                       "at the top level; Known keys: model, request, requests, infer, devices, place, "
                       "lora, lossy, scheduler, output");
  check_config_refused("width: 5\n", ":1:1", "did you mean \"request.width\"?");
  check_config_refused("cp_size: 5\n", ":1:1", "did you mean \"infer.diffusion.cp_size\"?");
  check_config_refused(model_line + "request: {steps: 5}\n", ":2:11",
                       "did you mean \"num_inference_steps\"?");
  check_config_refused(model_line + "requests:\n  - prompt: p\n  - {promt: p}\n", ":4:6",
                       "\"promt\" in requests.1;");
  check_config_refused("infer: {diffusion: {cp-size: 2}}\n", ":1:21", "did you mean \"cp_size\"?");
  check_config_refused(model_line + "request: {width:5}\n", ":2:11", "is a space missing after the colon?");
  check_config_refused("name: x\n", ":1:1", "unknown key \"name\"");
}

TEST_CASE("what must be given") {
  check_config_refused("request: {prompt: p}\n", "", "model.path must be given");
  check_config_refused("model: {dtype: auto}\nrequest: {prompt: p}\n", ":1:8", "model.path must be given");
  check_config_refused("model: {path: \"\"}\nrequest: {prompt: p}\n", ":1:15",
                       "model.path must not be empty");
  check_config_refused(model_line + "request: {width: 16}\n", ":2:10", "request.prompt must be given");
  check_config_refused(model_line + "requests:\n  - prompt: p\n  - width: 16\n", ":4:5",
                       "requests.1.prompt must be given");
  CHECK(load(model_line + "request: {prompt: \"\"}\n").request->prompt.empty());
  check_config_refused(model_line + "request: {prompt: p}\noutput: {directory: \"\"}\n", ":3:21",
                       "must not be empty");
}

TEST_CASE("request or requests") {
  check_config_refused(model_line, "", "request (or requests, a list) must be given");
  check_config_refused(model_line + "request: null\n", "", "must be given");
  check_config_refused(model_line + "requests: []\n", ":2:11", "requests is an empty list");
  check_config_refused(model_line + "request: {prompt: p}\nrequests: []\n", ":3:11",
                       "requests is an empty list");
  CHECK(load(model_line + "request: null\nrequests: [{prompt: p}]\n").requests.size() == 1);
}

TEST_CASE("ids are directory names and differ") {
  for (const char* id : {".", "..", "a/b", "a b", "é", "results.jsonl", "queue.json", "a\\b", "~"}) {
    check_config_refused(model_line + "requests: [{prompt: p, id: '" + std::string(id) + "'}]\n", ":2:28",
                         "requests.0.id must be a directory name");
  }
  check_config_refused(model_line + "requests: [{prompt: p, id: " + std::string(101, 'x') + "}]\n", ":2:28",
                       "at most 100");
  check_config_refused(model_line + "requests: [{prompt: p, id: x}, {prompt: p}, {prompt: p, id: x}]\n",
                       ":2:61", "requests.0.id and requests.2.id are both \"x\"; the first is at ");
  const std::string longest(100, 'x');
  CHECK(load(model_line + "requests: [{prompt: p, id: " + longest + "}]\n").requests[0].id == longest);
}

TEST_CASE("several prompts take the place of one") {
  const RunConfig config =
      load(model_line + "request: {prompts: [{text: a}, {text: b, weight: 2, mask: m.png}]}\n");
  REQUIRE(config.request->prompts.size() == 2);
  CHECK((config.request->all_prompts()[1] == PromptConfig{.text = "b", .weight = 2, .mask = "m.png"}));
  CHECK(config.request->conditionings() == 3);
  using Prompts = std::vector<PromptConfig>;
  CHECK((load(model_line + "request: {prompt: p}\n").request->all_prompts() == Prompts{{.text = "p"}}));
  CHECK(load(dump_yaml(config)) == config);
  const auto shared =
      load(model_line + "request: {prompts: [{text: a}]}\nrequests: [{seed: 1}, {seed: 2}]\n");
  CHECK((shared.requests[1].all_prompts() == Prompts{{.text = "a"}}));
  // What an entry says itself takes the place of the other, shared kind.
  const auto mixed =
      load(model_line + "request: {prompt: p}\nrequests: [{prompts: [{text: a}]}, {seed: 1}]\n");
  CHECK((mixed.requests[0].all_prompts() == Prompts{{.text = "a"}} && mixed.requests[1].prompt == "p"));
  const auto other =
      load(model_line + "request: {prompts: [{text: a}]}\nrequests: [{prompt: p}, {seed: 1}]\n");
  CHECK((other.requests[0].all_prompts() == Prompts{{.text = "p"}} && other.requests[1].prompts.size() == 1));
  check_config_refused(model_line + "request: {prompt: p, prompts: [{text: a}]}\n", ":2:31",
                       "request.prompt and request.prompts are both given");
  check_config_refused(model_line + "request: {prompts: []}\n", ":2:20", "request.prompts is an empty list");
  check_config_refused(model_line + "request: {prompts: [{weight: 1}]}\n", ":2:21",
                       "request.prompts.0.text must be given");
  check_config_refused(model_line + "request: {prompts: [{text: a, weight: 0}]}\n", ":2:39",
                       "request.prompts.0.weight must be above 0");
}

TEST_CASE("windows of a long video") {
  const RunConfig config = load(model_line + "request: {prompt: p, context: {window: 33}}\n");
  CHECK((config.request->context == ContextConfig{.window = 33, .overlap = 16}));
  CHECK(load(dump_yaml(config)) == config);
  check_config_refused(model_line + "request: {prompt: p, context: {window: 32}}\n", ":2:40",
                       "request.context.window must be 4k+1 between 1 and 4097, got 32");
  check_config_refused(model_line + "request: {prompt: p, context: {window: 9, overlap: 12}}\n", ":2:31",
                       "request.context.overlap must be less than its window, 9, got 12");
}

TEST_CASE("where the denoiser runs is said once") {
  CHECK(load(model_line + "request: {prompt: p}\nplace: {denoiser: cpu}\n").place.denoiser ==
        std::vector<std::string>{"cpu"});
  CHECK(load(model_line + "request: {prompt: p}\nplace: {denoiser: [cpu, cuda:1]}\n").place.denoiser.size() ==
        2);
  check_config_refused(
      model_line + "request: {prompt: p}\nplace: {denoiser: cpu}\ndevices: [{device: cpu}]\n", ":3:19",
      "place.denoiser and devices both say where the denoiser runs");
  check_config_refused(model_line + "request: {prompt: p}\ndevices: [{weight: auto}, {weight: 2}]\n", ":3:10",
                       "devices gives 1 of 2 weights as auto");
}

TEST_CASE("guidance that is off leaves nothing for cfg_size 2") {
  const std::string infer = "infer: {diffusion: {cfg_size: 2}}\n";
  check_config_refused(model_line + "request: {prompt: p, guidance_scale: 1}\n" + infer, ":3:31",
                       "infer.diffusion.cfg_size must be 1 or auto, got 2: guidance is off, since "
                       "request.guidance_scale is 1");
  check_config_refused(model_line + "requests: [{prompt: p}, {prompt: p, guidance_scale: 0.5}]\n" + infer,
                       ":3:31", "requests.1.guidance_scale is 0.5");
  CHECK_NOTHROW(load(model_line + "request: {prompt: p, guidance_scale: 1.01}\n" + infer));
  CHECK_NOTHROW(
      load(model_line + "request: {prompt: p, guidance_scale: 1}\ninfer: {diffusion: {cfg_size: 1}}\n"));
  CHECK_NOTHROW(load(model_line + "request: {prompt: p, guidance_scale: 1}\n"));
}

TEST_CASE("Ulysses times ring is the context-parallel size") {
  const auto text = [](const char* attention) {
    return model_line + "request: {prompt: p}\ninfer:\n  diffusion: {cp_size: 4}\n  attention: " + attention +
           "\n";
  };
  check_config_refused(text("{ulysses_size: 2, ring_size: 3}"), ":5:14", "got 2 * 3 = 6, not 4");
  check_config_refused(text("{ulysses_size: 65536, ring_size: 65536}"), ":5:14", "= 4294967296, not 4");
  CHECK_NOTHROW(load(text("{ulysses_size: 2, ring_size: 2}")));
  CHECK_NOTHROW(load(text("{ulysses_size: 2}")));
  CHECK_NOTHROW(load(text("{ulysses_size: 3, ring_size: auto}")));
}

TEST_CASE("the seeds of a batch stay in range") {
  const std::string start = model_line + "request: {prompt: p, seed: 9223372036854775807, batch_size: ";
  check_config_refused(start + "2}\n", ":2:28", "request.seed + request.batch_size - 1 must be below 2^63");
  CHECK_NOTHROW(load(start + "1}\n"));
}

TEST_CASE("requests get ids") {
  RunConfig config;
  config.request.emplace();
  REQUIRE(all_requests(config).size() == 1);
  CHECK(all_requests(config)[0].id.empty());
  config.request->id = "mine";
  CHECK(all_requests(config)[0].id == "mine");
  config.request.reset();
  config.requests.resize(4);
  config.requests[1].id = "x";
  config.requests[3].id = "0002";
  std::vector<std::string> ids;
  for (const RequestConfig& request : all_requests(config)) ids.push_back(request.id);
  CHECK(ids == std::vector<std::string>{"0000", "x", "0003", "0002"});
}

TEST_CASE("the name is the file's stem") {
  const std::string text = model_line + "request: {prompt: p}\n";
  CHECK(load_run_config(ConfigFile(text, "my.run.yaml").path()).name == "my.run");
  CHECK(caught([&] { load_run_config(ConfigFile(text, "...yaml").path()); }).code == ExitCode::config);
  CHECK(caught([] { load_run_config("/nowhere/a.yaml"); }).code == ExitCode::missing_file);
}
