// Where requests come from, what they share, and which of them are left out.
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "core/config.h"
#include "core/request_source.h"
#include "tests/support/catch.h"
#include "tests/support/config_files.h"
#include "tests/support/expect_error.h"

using namespace frameshard;
using namespace frameshard::test;

namespace {

// A config whose `requests` names `name` beside it, with these contents.
class Source {
 public:
  explicit Source(const std::string& name, const std::string& text = "") : config_(""), name_(name) {
    if (!text.empty()) write(name, text);
  }

  std::string path() const { return (config_.path().parent_path() / name_).string(); }
  void write(const std::string& name, const std::string& text) const {
    const auto file = config_.path().parent_path() / name;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file, std::ios::binary) << text;
  }
  RunConfig load(const std::string& shared = "", const std::vector<std::string>& overrides = {}) const {
    write("a.yaml", model_line + shared + "requests: " + path() + "\n");
    return load_run_config(config_.path(), overrides);
  }
  Caught refused(const std::string& shared = "") const {
    return caught([&] { load(shared); });
  }

 private:
  ConfigFile config_;
  std::string name_;
};

std::vector<std::string> prompts(const RunConfig& config) {
  std::vector<std::string> texts;
  for (const RequestConfig& request : config.requests) texts.push_back(request.prompt);
  return texts;
}

using Texts = std::vector<std::string>;

}  // namespace

TEST_CASE("requests from a YAML file") {
  for (const char* name : {"list.yaml", "list.yml"}) {
    const RunConfig config = Source(name, "- {prompt: a, seed: 3}\n- prompt: b\n  id: x\n").load();
    CHECK(prompts(config) == Texts{"a", "b"});
    CHECK(config.requests[0].seed == 3);
    CHECK(config.requests[1].id == "x");
    CHECK_FALSE(config.request);
  }
  CHECK(prompts(Source("list.yaml", "requests:\n  - {prompt: a}\n").load()) == Texts{"a"});
}

TEST_CASE("requests from JSON lines") {
  const Source source(
      "list.jsonl",
      "\xEF\xBB\xBF{\"prompt\": \"a\", \"seed\": 3}\r\n\n  \t\n"
      "{\"prompt\":\"b\\n\\/\\\"\",\"guidance_scale\":1e0,\"latents\":null}\n{\"prompt\": \"\"}");
  const RunConfig config = source.load();
  CHECK(prompts(config) == Texts{"a", "b\n/\"", ""});
  CHECK(config.requests[0].seed == 3);
  CHECK(config.requests[1].guidance_scale == 1.0);
}

TEST_CASE("JSON writes characters above U+FFFF as two escapes") {
  const auto prompt = [](const std::string& text) {
    return Source("list.jsonl", "{\"prompt\": \"" + text + "\"}\n").load().requests[0].prompt;
  };
  CHECK(prompt("\\ud83d\\ude00!") == "😀!");
  CHECK(prompt("x\\uD83D\\uDE00\\ud83d\\ude00") == "x😀😀");
  CHECK(prompt("\\\\ud83d\\\\ude00") == "\\ud83d\\ude00");
  CHECK(prompt("caf\\u00e9") == "café");
  for (const char* half : {"\\ud83d", "\\ude00\\ud83d", "\\ud83dx", "\\ud8", "\\ud83d\\u00"}) {
    INFO(half);
    CHECK(caught([&] { prompt(half); }).code == ExitCode::config);
  }
}

TEST_CASE("requests from a directory of texts") {
  const Source source("prompts");
  source.write("prompts/b.txt", "two\nlines\n");
  source.write("prompts/a-1.txt", " one \r\n");
  source.write("prompts/c.md", "no prompt");
  source.write("prompts/sub/d.txt", "not looked at");
  const RunConfig config = source.load();
  CHECK(prompts(config) == Texts{" one ", "two\nlines"});
  CHECK(config.requests[0].id == "a-1");
  CHECK(config.requests[1].id == "b");
  source.write("prompts/my prompt.txt", "x");
  CHECK(source.refused().has("my prompt.txt:1:1: requests.2.id must be a directory name"));
}

TEST_CASE("a prompt's file must be text") {
  const Source source("prompts");
  source.write("prompts/a.txt", "caf\xe9");
  CHECK(source.refused().code == ExitCode::config);
  CHECK(source.refused().has("a.txt: not valid UTF-8 at byte 3"));
  source.write("prompts/a.txt", std::string((1 << 20) + 1, 'x'));
  CHECK(source.refused().has("longer than 1 MiB"));
}

TEST_CASE("a prompt's file that holds none") {
  const Source source("prompts");
  source.write("prompts/a.txt", "a circle");
  for (const char* text : {"", "\n", " \t\r\n"}) {
    source.write("prompts/b.txt", text);
    CHECK(source.refused().code == ExitCode::bad_data);
    CHECK(source.refused().has(source.path() + "/b.txt: holds no prompt"));
  }
  CHECK(prompts(Source("l.jsonl", "{\"prompt\": \"\"}\n").load()) == Texts{""});
}

TEST_CASE("a source that is missing, empty or of no known kind") {
  for (const char* name : {"none.yaml", "none.jsonl", "none"}) {
    const Source source(name);
    CHECK(source.refused().code == ExitCode::missing_file);
    CHECK(source.refused().has(source.path() + ": no such file or directory"));
  }
  for (const auto& [name, text] :
       std::vector<std::pair<std::string, std::string>>{{"list.yaml", "# nothing\n"},
                                                        {"list.yaml", "[]\n"},
                                                        {"list.yaml", "requests: []\n"},
                                                        {"list.yaml", "requests:\n"},
                                                        {"list.jsonl", "\n  \n"},
                                                        {"prompts/x.md", "x"}}) {
    INFO(text);
    const Source source(name.substr(0, name.find('/')), name.find('/') == std::string::npos ? text : "");
    source.write(name, text);
    CHECK(source.refused().code == ExitCode::bad_data);
    CHECK(source.refused().has(source.path() + ": holds no request"));
  }
  const auto unknown = Source("list.txt", "a prompt").refused();
  CHECK(unknown.code == ExitCode::config);
  CHECK(unknown.has("a .yaml, .yml or .jsonl file is wanted, or a directory of .txt files"));
  check_config_refused(model_line + "requests: \"\"\n", ":2:11",
                       "requests must be a list or the path of one");
}

TEST_CASE("mistakes in a source are named with its place") {
  const auto check = [](const std::string& name, const std::string& text, const std::string& place,
                        const std::string& words) {
    INFO(text);
    const Source source(name, text);
    const auto error = source.refused();
    INFO(error.message);
    CHECK(error.code == ExitCode::config);
    CHECK(error.message.starts_with(source.path() + place + ": "));
    CHECK(error.has(words));
  };
  check("l.yaml", "- prompt: a\n- {promt: b}\n", ":2:4", "unknown key \"promt\" in requests.1; did you mean");
  check("l.yaml", "- prompt: a\n  width: wide\n", ":2:10",
        "requests.0.width must be an integer, got \"wide\"");
  check("l.yaml", "- prompt: a\n  prompt: b\n", ":2:3", "is given twice");
  check("l.yaml", "- {prompt: &a b}\n", ":1:12", "anchors");
  check("l.yaml", "- [a\n", ":1:3", "is not closed");
  check("l.yaml", "prompts: []\n", ":1:1", "holds a list of mappings, or one key, requests");
  check("l.yaml", "requests: other.yaml\n", ":1:11", "holds a list of mappings");
  check("l.yaml", "- a\n", ":1:3", "requests.0 must be a mapping, got \"a\"");
  check("l.yaml", "- {prompt: a}\n- {seed: 1}\n", ":2:3", "requests.1.prompt must be given");
  check("l.jsonl", "{\"prompt\": \"a\"}\n\n{\"promt\": \"b\"}\n", ":3",
        "unknown key \"promt\" in requests.1");
  check("l.jsonl", "{\"prompt\": \"a\", \"prompt\": \"b\"}\n", ":1", "is given twice");
  check("l.jsonl", "{\"prompt\": \"a\"\n", ":1", "is not closed");
  check("l.jsonl", "[1]\n", ":1", "requests.0 must be a mapping, got a list");
  check("l.jsonl", "{\"prompt\": \"a\"}\n{\"prompt\": \"caf\xe9\"}\n", ":2", "not valid UTF-8");
  check("l.jsonl", "{\"prompt\": \"a\", \"id\": \"x\"}\n{\"prompt\": \"b\", \"id\": \"x\"}\n", ":2",
        "requests.0.id and requests.1.id are both \"x\"; the first is at ");
}

TEST_CASE("a file of requests may be longer than a config") {
  std::string text;
  while (text.size() <= max_yaml_bytes) text += "{\"prompt\": \"" + std::string(5000, 'x') + "\"}\n";
  CHECK(Source("l.jsonl", text).load().requests.size() > 200);
}

TEST_CASE("request holds what requests share") {
  const std::string shared = "request: {width: 64, seed: 5, prompt: all, latents: n}\n";
  const std::string list = "requests: [{prompt: a, width: 32}, {seed: 6, latents: null}]\n";
  const RunConfig config = load(model_line + shared + list);
  CHECK_FALSE(config.request);
  REQUIRE(config.requests.size() == 2);
  CHECK(prompts(config) == Texts{"a", "all"});
  CHECK(config.requests[0].width == 32);
  CHECK(config.requests[1].width == 64);
  CHECK(config.requests[0].seed == 5);
  CHECK(config.requests[1].seed == 6);
  CHECK(config.requests[0].latents == "n");
  CHECK_FALSE(config.requests[1].latents);
  CHECK(config.requests[0].height == 480);
  const RunConfig from_file = Source("l.jsonl", "{\"prompt\": \"a\"}").load("request: {width: 64}\n");
  CHECK(from_file.requests[0].width == 64);
}

TEST_CASE("overrides of shared values, of single requests and of the source") {
  const std::string text =
      model_line + "request: {width: 64}\nrequests: [{prompt: a}, {prompt: b, width: 32}]\n";
  const RunConfig shared = load(text, {"request.width=128", "request.seed=7"});
  CHECK(shared.requests[0].width == 128);
  CHECK(shared.requests[1].width == 32);
  CHECK(shared.requests[1].seed == 7);
  const RunConfig one = load(text, {"requests.0.width=16", "request.width=128"});
  CHECK(one.requests[0].width == 16);
  const Source source("l.jsonl", "{\"prompt\": \"from the file\"}");
  CHECK(prompts(load(text, {"requests=" + source.path()})) == Texts{"from the file"});
  CHECK(prompts(load(model_line + "request: {prompt: p}\n", {"requests=" + source.path()})) ==
        Texts{"from the file"});
  const auto error = caught([] { load(model_line + "request: {prompt: p}\n", {"requests.0.seed=7"}); });
  CHECK(error.code == ExitCode::config);
  CHECK(error.message ==
        "override requests.0.seed=7: this config has request and no list of requests; use request.seed=7");
}

TEST_CASE("what is shared is checked too") {
  const std::string list = "requests: [{prompt: a, width: 32}]\n";
  check_config_refused(model_line + "request: {width: 17}\n" + list, ":2:18",
                       "request.width must be a multiple");
  check_config_refused(model_line + "request: {id: x}\n" + list, ":2:15", "request.id cannot be shared");
  check_config_refused(model_line + "request: {widht: 17}\n" + list, ":2:11", "did you mean \"width\"?");
  CHECK_NOTHROW(load(model_line + "request: {}\n" + list));
}

TEST_CASE("requests that cannot be made are noted, the others stay") {
  const ConfigFile file(model_line +
                        "requests: [{prompt: a}, {prompt: b, width: 17}, {prompt: c, guidance_scale: 1}]\n"
                        "infer: {diffusion: {cfg_size: 2}}\n");
  RequestFaults faults;
  const RunConfig config = load_run_config(file.path(), {}, faults);
  CHECK(config.requests.size() == 3);
  REQUIRE(faults.size() == 2);
  CHECK(faults.at(1).code == ExitCode::config);
  CHECK(faults.at(1).message.find("requests.1.width must be a multiple of 16") != std::string::npos);
  CHECK(faults.at(2).message.find("guidance is off") != std::string::npos);
  CHECK(caught([&] { load_run_config(file.path()); }).has("requests.1.width"));
}

TEST_CASE("the configuration of one video") {
  const RunConfig config =
      load(model_line + "requests: [{prompt: a, seed: 7, batch_size: 3, id: x}, {prompt: b}]\n");
  const RunConfig one = one_video_config(config, config.requests[0], 2);
  CHECK(one.requests.empty());
  REQUIRE(one.request);
  CHECK(one.request->seed == 9);
  CHECK(one.request->batch_size == 1);
  RequestConfig alone = *one.request;
  alone.id = "y";
  CHECK(config_hash(one) == config_hash(one_video_config(config, alone, 0)));
  CHECK(config_hash(one) != config_hash(one_video_config(config, config.requests[0], 1)));
}
