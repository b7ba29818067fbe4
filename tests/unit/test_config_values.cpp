#include <cmath>
#include <limits>
#include <string>

#include "core/config.h"
#include "tests/support/catch.h"
#include "tests/support/config_files.h"
#include "tests/support/expect_error.h"

using namespace frameshard;
using namespace frameshard::test;

TEST_CASE("wrong types name the key, the wanted type and the value") {
  check_request_line("width: abc", "request.width must be an integer, got \"abc\"");
  check_request_line("width: \"512\"",
                     "request.width must be an integer, got the quoted text \"512\"; remove the quotes");
  check_request_line("width: [512]", "request.width must be an integer, got a list");
  check_request_line("width: {a: 1}", "request.width must be an integer, got a mapping");
  check_request_line("width: null", "request.width must be an integer, got null");
  check_request_line("negative_prompt: null",
                     "request.negative_prompt must be a string, got null (an empty value); write \"\"");
  check_request_line("negative_prompt: [a]", "request.negative_prompt must be a string, got a list");
  check_request_line("latents: [a]", "request.latents must be a string or null, got a list");
  check_request_line("guidance_scale: high", "request.guidance_scale must be a number, got \"high\"");
  check_config_refused("model: m\n", ":1:8", "model must be a mapping, got \"m\"");
  check_config_refused("model: [m]\n", ":1:8", "model must be a mapping, got a list");
  check_config_refused("model:\nrequest: {prompt: p}\n", ":1:1", "model must be a mapping, got null");
  check_config_refused("requests: {prompt: p}\n", ":1:11", "requests must be a list, got a mapping");
  check_config_refused("requests: [p]\n", ":1:12", "requests.0 must be a mapping, got \"p\"");
  check_config_refused("output: {overwrite: yes}\n", ":1:21",
                       "output.overwrite must be true or false, got \"yes\"");
  check_config_refused("output: {overwrite: True}\n", ":1:21",
                       "output.overwrite must be true or false, got \"True\"");
  check_config_refused("output: {overwrite: 1}\n", ":1:21", "must be true or false");
  check_config_refused("output: {overwrite: \"true\"}\n", ":1:21", "remove the quotes");
  check_config_refused("infer: {diffusion: {cp_size: Auto}}\n", ":1:30",
                       "must be auto or an integer, got \"Auto\"");
  check_config_refused("infer: {diffusion: {cp_size: \"auto\"}}\n", ":1:30", "remove the quotes");
  check_config_refused("infer: {diffusion: {cp_size: null}}\n", ":1:30",
                       "must be auto or an integer, got null");
  check_config_refused("scheduler: {flow_shift: auto}\n", ":1:25", "must be a number or null, got \"auto\"");
  check_config_refused("- 1\n", ":1:1", "the top level must be a mapping, got a list");
  check_config_refused("", ":1:1", "the top level must be a mapping, got null");
}

TEST_CASE("integers are decimal and whole") {
  CHECK(request_with("seed: 010").seed == 10);
  CHECK(request_with("seed: +5").seed == 5);
  CHECK(request_with("seed: 9223372036854775807").seed == std::numeric_limits<int64_t>::max());
  for (const char* text : {"1.0", "0x10", "1e3", "0o17", "1_000", "5.", "--5", "+", "1 2", "12abc", ".5"}) {
    check_request_line("seed: " + std::string(text),
                       "request.seed must be an integer, got \"" + std::string(text) + "\"");
  }
  check_request_line("seed: 9223372036854775808", "which does not fit in 64 bits");
  check_request_line("seed: -99999999999999999999", "which does not fit in 64 bits");
}

TEST_CASE("numbers are finite decimals") {
  CHECK(request_with("guidance_scale: 7").guidance_scale == 7.0);
  CHECK(request_with("guidance_scale: 010").guidance_scale == 10.0);
  CHECK(request_with("guidance_scale: +2.5e+1").guidance_scale == 25.0);
  CHECK(request_with("guidance_scale: .5").guidance_scale == 0.5);
  CHECK(request_with("guidance_scale: 5.").guidance_scale == 5.0);
  CHECK(request_with("guidance_scale: 1E-3").guidance_scale == 1e-3);
  for (const char* text :
       {".nan", ".inf", "nan", "inf", "-.inf", "0x1p3", "1e", "1e+", ".", "1.2.3", "1,5", "5x"}) {
    check_request_line("guidance_scale: " + std::string(text),
                       "request.guidance_scale must be a number, got");
  }
  check_request_line("guidance_scale: 1e999", "which a double cannot hold");
}

TEST_CASE("strings take plain scalars literally") {
  CHECK(request_with("negative_prompt: 5").negative_prompt == "5");
  CHECK(request_with("negative_prompt: 010").negative_prompt == "010");
  CHECK(request_with("negative_prompt: true").negative_prompt == "true");
  CHECK(request_with("negative_prompt: auto").negative_prompt == "auto");
  CHECK(request_with("negative_prompt: \"null\"").negative_prompt == "null");
  CHECK(request_with("negative_prompt: \"\"").negative_prompt.empty());
  CHECK(request_with("latents: null").latents == std::nullopt);
  CHECK(request_with("latents: \"null\"").latents == "null");
  CHECK(request_with("latents: a.safetensors").latents == "a.safetensors");
}

TEST_CASE("ranges name the limits and the nearest values") {
  check_request_line(
      "width: 130",
      "request.width must be a multiple of 16 between 16 and 8192, got 130; the nearest are 128 and 144");
  check_request_line("width: 8", "got 8; the nearest is 16");
  check_request_line("width: 8200", "got 8200; the nearest is 8192");
  check_request_line("width: -9223372036854775808", "the nearest is 16");
  check_request_line("num_frames: 32",
                     "request.num_frames must be 4k+1 between 1 and 4097, got 32; the nearest are 29 and 33");
  check_request_line("num_frames: 0", "the nearest is 1");
  check_request_line("num_frames: 9223372036854775807", "the nearest is 4097");
  check_request_line("num_inference_steps: 0",
                     "request.num_inference_steps must be between 1 and 1000, got 0");
  check_request_line("num_inference_steps: 1001", "must be between 1 and 1000, got 1001");
  check_request_line("guidance_scale: -0.5", "request.guidance_scale must be between 0 and 100, got -0.5");
  check_request_line("guidance_scale: 100.1", "between 0 and 100");
  check_request_line("seed: -1", "request.seed must be between 0 and 9223372036854775807, got -1");
  check_request_line("max_sequence_length: 1", "between 2 and 4096");
  check_request_line("batch_size: 1025", "between 1 and 1024");
  check_request_line("latents: \"\"", "request.latents must not be empty");
  check_config_refused(model_line + "request: {prompt: p}\nscheduler: {flow_shift: 0}\n", ":3:25",
                       "scheduler.flow_shift must be above 0 and at most 100, got 0");
  check_config_refused(model_line + "request: {prompt: p}\ninfer: {diffusion: {cfg_size: 3}}\n", ":3:31",
                       "infer.diffusion.cfg_size must be at most 2 or auto, got 3: request has 2 texts");
  check_config_refused(model_line + "request: {prompt: p}\ninfer: {low_memory: 3}\n", ":3:21",
                       "between 0 and 2");
  check_config_refused(model_line + "request: {prompt: p}\ninfer: {max_devices: 0}\n", ":3:22",
                       "between 1 and 1024");
  check_config_refused(model_line + "request: {prompt: p}\nplace: {vae: gpu}\n", ":3:14",
                       "place.vae must be default, cpu, cuda or cuda:<number>, got \"gpu\"");
  check_config_refused(model_line + "request: {prompt: p}\nplace: {denoiser: [cpu, gpu]}\n", ":3:19",
                       "place.denoiser must be default, cpu, cuda or cuda:<number>, got \"gpu\"");
  check_config_refused(model_line + "request: {prompt: p}\ninfer: {threads_per_rank: 0}\n", ":3:27",
                       "between 1 and 1024");
  check_config_refused(model_line + "request: {prompt: p}\noutput: {fps: 241}\n", ":3:15",
                       "between 1 and 240");
  check_config_refused(model_line + "requests: [{prompt: p}, {prompt: p, width: 17}]\n", ":2:44",
                       "requests.1.width must be");
  CHECK(request_with("num_frames: 4097").num_frames == 4097);
  CHECK(request_with("width: 8192").width == 8192);
}

TEST_CASE("choices are listed") {
  check_config_refused(
      "model: {path: m, dtype: bfloat61}\nrequest: {prompt: p}\n", ":1:25",
      "model.dtype must be one of auto, float32, bfloat16, float16, got \"bfloat61\"; did you mean "
      "\"bfloat16\"?");
  check_config_refused("model: {path: m, vae_dtype: x}\nrequest: {prompt: p}\n", ":1:29",
                       "float16, got \"x\"");
  check_config_refused(model_line + "request: {prompt: p}\ninfer: {backend: ncll}\n", ":3:18",
                       "did you mean \"nccl\"?");
  check_config_refused(model_line + "request: {prompt: p}\ninfer: {device: gpu}\n", ":3:17",
                       "one of auto, cpu, cuda");
  check_config_refused(model_line + "request: {prompt: p}\nscheduler: {solver: ddim}\n", ":3:21",
                       "one of unipc, euler");
  check_config_refused(model_line + "request: {prompt: p}\nscheduler: {sigmas: x}\n", ":3:21",
                       "one of diffusers, wan");
}

TEST_CASE("values set by code are checked without places") {
  RunConfig config;
  config.model.path = "m";
  config.request.emplace();
  CHECK_NOTHROW(check_config(config));
  config.request->width = 17;
  CHECK(caught([&] { check_config(config); }).message.starts_with("request.width must be a multiple of 16"));
  config.request->width = 16;
  config.request->guidance_scale = std::nan("");
  CHECK(caught([&] { check_config(config); }).has("request.guidance_scale must be between"));
  config.request->guidance_scale = 1;
  CHECK_NOTHROW(check_config(config));
  config.request.reset();
  CHECK(caught([&] { check_config(config); }).message.starts_with("request (or requests, a list)"));
}
