#include <string>
#include <vector>

#include "core/config.h"
#include "tests/support/catch.h"
#include "tests/support/config_files.h"
#include "tests/support/expect_error.h"

using namespace frameshard;
using frameshard::test::caught;
using frameshard::test::load;
using frameshard::test::nasty_texts;

namespace {

const std::string base = "model: {path: m}\nrequest: {prompt: p}\n";
const std::string with_list = "model: {path: m}\nrequests: [{prompt: a}, {prompt: b}]\n";

RunConfig overridden(const std::vector<std::string>& overrides) {
  return load(base, overrides);
}

void check_refused(const std::string& assignment, const std::string& words, const std::string& text = base) {
  INFO("override: " << assignment);
  const auto error = caught([&] { load(text, {assignment}); });
  INFO("message: " << error.message);
  CHECK(error.code == ExitCode::config);
  CHECK(error.message.starts_with("override "));
  CHECK(error.has(words));
}

}  // namespace

TEST_CASE("an override sets one value") {
  CHECK(overridden({"request.width=256"}).request->width == 256);
  CHECK(overridden({"request.seed=010"}).request->seed == 10);
  CHECK(overridden({"request.guidance_scale=7.5"}).request->guidance_scale == 7.5);
  CHECK(overridden({"output.overwrite=true"}).output.overwrite);
  CHECK(overridden({"infer.diffusion.cp_size=4"}).infer.diffusion.cp_size.value == 4);
  CHECK(overridden({"infer.diffusion.cp_size=4", "infer.diffusion.cp_size=auto"})
            .infer.diffusion.cp_size.is_auto());
  CHECK(overridden({"scheduler.flow_shift=3"}).scheduler.flow_shift == 3.0);
  CHECK(overridden({"scheduler.flow_shift=3", "scheduler.flow_shift=null"}).scheduler.flow_shift ==
        std::nullopt);
  CHECK(overridden({"scheduler.solver=euler"}).scheduler.solver == "euler");
  CHECK(overridden({"model.dtype=float32"}).model.dtype == "float32");
}

TEST_CASE("the last override wins, also over a value out of range") {
  CHECK(overridden({"request.width=256", "request.width=512"}).request->width == 512);
  CHECK(overridden({"request.width=130", "request.width=144"}).request->width == 144);
}

TEST_CASE("a text takes everything after the first equals sign") {
  CHECK(overridden({"request.prompt=a=b: c # d, [e] \"f\""}).request->prompt == "a=b: c # d, [e] \"f\"");
  CHECK(overridden({"request.prompt="}).request->prompt.empty());
  CHECK(overridden({"request.prompt=null"}).request->prompt == "null");
  CHECK(overridden({"request.prompt= x\n"}).request->prompt == " x\n");
  CHECK(overridden({"request.latents=a b"}).request->latents == "a b");
  CHECK(overridden({"request.latents=a", "request.latents=null"}).request->latents == std::nullopt);
  for (const std::string& text : nasty_texts) {
    INFO(text);
    CHECK(overridden({"request.prompt=" + text}).request->prompt == text);
  }
}

TEST_CASE("mappings and lists as flow text") {
  const RunConfig merged =
      overridden({"request={width: 64, prompt: \"x, y\"}", "infer.attention={ring_size: 2}"});
  CHECK(merged.request->width == 64);
  CHECK(merged.request->prompt == "x, y");
  CHECK(merged.infer.attention.ring_size.value == 2);
  CHECK(overridden({"request.width=64", "request={height: 64}"}).request->width == 64);
  const RunConfig list = overridden({"request=null", "requests=[{prompt: a}, {prompt: b, seed: 3}]"});
  REQUIRE(list.requests.size() == 2);
  CHECK_FALSE(list.request);
  CHECK(list.requests[1].seed == 3);
}

TEST_CASE("elements of a list by number") {
  const RunConfig config = load(with_list, {"requests.0.seed=3", "requests.1.prompt=c"});
  CHECK(config.requests[0].seed == 3);
  CHECK(config.requests[0].prompt == "a");
  CHECK(config.requests[1].prompt == "c");
  check_refused(
      "request.prompts.0.text=a",
      "request.prompts is not given, so that it has no number 0; give the list: request.prompts=[...]");
  check_refused("requests.2.seed=3", "requests has 2 elements, there is no number 2 (the first is 0)",
                with_list);
  check_refused("requests.x.seed=3", "requests is a list", with_list);
  check_refused("requests.-1.seed=3", "requests is a list", with_list);
  check_refused("requests.99999999999999999999.seed=3", "requests is a list", with_list);
  check_refused("requests.0.sed=3", "unknown key \"sed\" in requests.0; did you mean \"seed\"?", with_list);
  check_refused("requests.1.width=17", "requests.1.width must be a multiple of 16", with_list);
  check_refused("requests=[{seed: 3}]", "requests.0.prompt must be given", with_list);
}

TEST_CASE("what a file leaves out an override may give") {
  CHECK(load("model: {path: m}\n", {"request.prompt=x"}).request->prompt == "x");
  CHECK(load("request: {prompt: p}\n", {"model.path=m"}).model.path == "m");
  check_refused("request.width=64", "request.prompt must be given", "model: {path: m}\n");
  CHECK(load(with_list, {"request.width=64"}).requests[1].width == 64);
}

TEST_CASE("a wrong override is named in the message") {
  const auto error = caught([] { overridden({"request.width=abc"}); });
  CHECK(error.message == "override request.width=abc: request.width must be an integer, got \"abc\"");
  check_refused("request.width=130", "the nearest are 128 and 144");
  check_refused("request.width=", "request.width must be an integer, got null");
  check_refused("request.width='64'", "remove the quotes");
  check_refused("request.width=[1", "a bracket is not closed");
  check_refused("request.width=1: 2: 3", "syntax error");
  check_refused("request={seed: 1, seed: 2}", "the key \"seed\" is given twice");
  check_refused("request={sed: 1}", "unknown key \"sed\" in request; did you mean \"seed\"?");
  check_refused("request=&x {seed: 1}", "anchors");
  check_refused("request.id=a/b", "request.id must be a directory name");
  check_refused("model.dtype=bfloat", "did you mean \"bfloat16\"?");
  check_refused("request.prompt=\xFF", "not valid UTF-8");
  check_refused("infer.diffusion.cfg_size=0", "between 1 and 65536");
}

TEST_CASE("unknown paths") {
  check_refused("request.widht=5",
                "unknown key \"widht\" in request; did you mean \"width\"? Known keys: id, ");
  check_refused("width=5", "unknown key \"width\" at the top level; did you mean \"request.width\"?");
  check_refused("infer.cp_size=5", "did you mean \"diffusion.cp_size\"?");
  check_refused("request.width.x=5", "request.width is an integer, it has no key x");
  check_refused("name=5", "unknown key \"name\"");
  check_refused("requests[0].seed=5", "did you mean \"requests\"?");
}

TEST_CASE("what is no override at all is a wrong command line") {
  for (const char* text : {"+request.width=5", "++a=5", "~request.width", "request.width", "", "=5", ".a=5",
                           "a.=5", "a..b=5", "--steps=5", "request.width =5", " a=5"}) {
    INFO(text);
    const auto error = caught([&] { overridden({text}); });
    CHECK(error.code == ExitCode::usage);
    CHECK(error.has("the form is key=value, such as request.width=256"));
  }
}

TEST_CASE("a refused override leaves the configuration as it was") {
  RunConfig config = overridden({});
  apply_override(config, "request.width=256");
  CHECK(config.request->width == 256);
  const RunConfig before = config;
  CHECK(caught([&] { apply_override(config, "request={height: 64, width: x}"); }).code == ExitCode::config);
  CHECK(config == before);
}
