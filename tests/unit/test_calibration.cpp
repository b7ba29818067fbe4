// `weight: auto`: what is measured, and the file that keeps it.
#include <cstdlib>
#include <optional>

#include <sys/stat.h>

#include "core/io/json_file.h"
#include "launcher/calibration.h"
#include "launcher/speed_cache.h"
#include "parallel/comm/thread.h"
#include "tests/support/catch.h"
#include "tests/support/plan_cases.h"
#include "tests/support/scratch.h"

using namespace frameshard;
using namespace frameshard::test;

namespace {

using Numbers = std::vector<double>;

// An environment variable for as long as it lives; null: not set.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) {
    if (const char* former = std::getenv(name)) former_ = former;
    value ? setenv(name, value, 1) : unsetenv(name);
  }
  ~Variable() { former_ ? setenv(name_, former_->c_str(), 1) : unsetenv(name_); }

 private:
  const char* name_;
  std::optional<std::string> former_;
};

RunConfig two_of_auto() {
  RunConfig config = config_with();
  config.request->width = config.request->height = 64, config.request->num_frames = 9;
  config.request->max_sequence_length = 16;
  config.devices = {{"cpu", {}}, {"cpu", {}}};
  return config;
}

ModelFacts small_facts() {
  return {.name = "small", .heads = 4, .head_dim = 8, .layers = 2, .ffn_dim = 64, .latent_channels = 16};
}

PlanMachine two_ranks() {
  return {.world = 2};
}

RankPlace place_of(int rank) {
  return {.rank = rank, .local_rank = rank, .local_size = 2};
}

std::string key_of(const RunConfig& config, int rank, const PlanMachine& machine = two_ranks()) {
  return rank_block(config, small_facts(), machine, place_of(rank)).key;
}

}  // namespace

TEST_CASE("the file of speeds: the variable, the user's cache, the home, or none") {
  const Variable cache("FRAMESHARD_CACHE", "/some/where"), xdg("XDG_CACHE_HOME", "/cache"),
      home("HOME", "/me");
  CHECK(speeds_file() == "/some/where/speeds.json");
  const Variable no_cache("FRAMESHARD_CACHE", nullptr);
  CHECK(speeds_file() == "/cache/frameshard/speeds.json");
  const Variable relative("XDG_CACHE_HOME", "cache");
  CHECK(speeds_file() == "/me/.cache/frameshard/speeds.json");
  const Variable no_home("HOME", nullptr);
  CHECK(speeds_file().empty());
  CHECK(add_speeds({}, {{"a", 1}}).find("FRAMESHARD_CACHE") != std::string::npos);
}

TEST_CASE("speeds are kept beside those that are there") {
  const Scratch scratch;
  const auto file = scratch / "new" / "speeds.json";
  std::string complaint;
  CHECK(read_speeds(file, complaint).empty());
  CHECK(add_speeds(file, {{"a", 1.5e9}, {"b", 2}}).empty());
  CHECK(add_speeds(file, {{"b", 3}, {"c \xff", 4}}).empty());
  const KnownSpeeds known = read_speeds(file, complaint);
  CHECK(complaint.empty());
  REQUIRE(known.size() == 3);
  CHECK((known.at("a") == 1.5e9 && known.at("b") == 3));
}

TEST_CASE("a broken file of speeds is said to be so, and replaced") {
  const Scratch scratch;
  const auto file = scratch / "speeds.json";
  for (const char* text :
       {"", "{", "[]", "{}", R"({"operations_per_second": 3})", R"({"operations_per_second": {"a": "fast"}})",
        R"({"operations_per_second": {"a": -1}})", R"({"operations_per_second": {"a": 0}})"}) {
    INFO(text);
    put(file, text);
    std::string complaint;
    CHECK(read_speeds(file, complaint).empty());
    CHECK(complaint.find("speeds.json") != std::string::npos);
    CHECK(add_speeds(file, {{"b", 2}}).empty());
    complaint.clear();
    CHECK(read_speeds(file, complaint) == KnownSpeeds{{"b", 2}});
    CHECK(complaint.empty());
  }
}

TEST_CASE("a file of speeds that cannot be written is a sentence, no failure") {
  const Scratch scratch;
  put(scratch / "file", "");
  CHECK_FALSE(add_speeds(scratch / "file" / "speeds.json", {{"a", 1}}).empty());
  std::filesystem::create_directories(scratch / "speeds.json");
  CHECK_FALSE(add_speeds(scratch / "speeds.json", {{"a", 1}}).empty());
}

TEST_CASE("what is no file is neither waited for nor replaced") {
  const Scratch scratch;
  const auto fifo = scratch / "speeds.json";
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  std::string complaint;
  CHECK(read_speeds(fifo, complaint).empty());
  CHECK(complaint.find("is a FIFO, not a file") != std::string::npos);
  CHECK(add_speeds(fifo, {{"a", 1.0}}).find("is a FIFO, not a file") != std::string::npos);
  CHECK(std::filesystem::is_fifo(fifo));
}

TEST_CASE("a speed's key names what it depends on") {
  const RunConfig config = two_of_auto();
  CHECK(key_of(config, 0) == key_of(config, 0));
  CHECK(key_of(config, 0) != key_of(config, 1));
  CHECK(key_of(config, 0).find("4 heads of 8, feed-forward 64; 24 of 48 tokens, 2 heads, text 16") !=
        std::string::npos);
  PlanMachine threads = two_ranks();
  threads.threads_per_rank = 2;
  CHECK(key_of(config, 0, threads) != key_of(config, 0));
  RunConfig other = config;
  other.model.dtype = "bfloat16";
  CHECK(key_of(other, 0) != key_of(config, 0));
  other = config, other.request->width = 128;
  CHECK(key_of(other, 0) != key_of(config, 0));
  other = config, other.request->num_inference_steps = 7, other.request->prompt = "another";
  CHECK(key_of(other, 0) == key_of(config, 0));
}

TEST_CASE("the block is the job's: its largest request, one window of it, and a rank's even share") {
  RunConfig config = two_of_auto();
  const auto tokens = [&] {
    return rank_block(config, small_facts(), two_ranks(), place_of(0)).shape.tokens;
  };
  config.request->num_frames = 81;
  CHECK(tokens() == 21 * 16);
  config.request->context = ContextConfig{.window = 17, .overlap = 4};
  CHECK(tokens() == 5 * 16);
  config.infer.diffusion.cfg_size = {2};
  CHECK(rank_block(config, small_facts(), two_ranks(), place_of(0)).shape.rank_tokens == 5 * 16);
}

TEST_CASE("a block that takes too long is measured with fewer tokens") {
  const ModelFacts model = facts_1_3b();
  const BlockShape whole = block_shape(model, 32760, 512, 4, 1e15),
                   part = block_shape(model, 32760, 512, 4, 2e10);
  CHECK((whole.tokens == 32760 && whole.rank_tokens == 8190 && whole.rank_heads == 3));
  // 12 d^2 + 4 d f + 4 t d a token, and 4 d/4 a pair of tokens
  const double d = 1536;
  CHECK(whole.operations() ==
        Approx(8190 * (12 * d * d + 4 * d * 8960 + 4 * 512 * d) + 4 * 32760.0 * 32760.0 * d / 4));
  CHECK((part.tokens < whole.tokens && part.operations() <= 2e10 && part.operations() > 5e9));
  CHECK(block_shape(model, 32760, 512, 4, 1).rank_tokens == 1);
}

TEST_CASE("a block is measured") {
  const BlockShape shape = block_shape(small_facts(), 45, 16, 2, 1e9);
  const double seconds = block_seconds(shape, at::Device(at::kCPU), at::kFloat);
  CHECK((seconds > 0 && seconds < 10));
}

TEST_CASE("speeds count against the fastest; what is within the drift is alike") {
  CHECK(relative_speeds({2e9, 1e9}) == Numbers{1, 0.5});
  const Numbers rounded = relative_speeds({1e9, 3e9, 3e6});
  CHECK(rounded[0] == Approx(0.333).epsilon(1e-9));
  CHECK(rounded[2] == Approx(0.001).epsilon(1e-9));
  CHECK(relative_speeds({100, 96}).empty());
  CHECK(relative_speeds({100, 94}) == Numbers{1, 0.94});
}

TEST_CASE("speeds come from the file where it has all ranks, and are measured where it has not") {
  const Scratch scratch;
  const Variable cache("FRAMESHARD_CACHE", scratch.path().c_str());
  const RunConfig config = two_of_auto();
  CHECK(measures_speeds(config));
  CHECK(known_speeds(config, small_facts(), two_ranks()).empty());
  CHECK(add_speeds(speeds_file(), {{key_of(config, 0), 4e9}}).empty());
  CHECK(known_speeds(config, small_facts(), two_ranks()).empty());
  speeds_of_threads(config, small_facts(), two_ranks(), place_of(0));
  std::string complaint;
  KnownSpeeds kept = read_speeds(speeds_file(), complaint);
  REQUIRE(kept.size() == 2);
  CHECK((kept[key_of(config, 0)] != 4e9 && kept[key_of(config, 1)] > 0));

  CHECK(add_speeds(speeds_file(), {{key_of(config, 0), 4e9}, {key_of(config, 1), 1e9}}).empty());
  CHECK(speeds_of_threads(config, small_facts(), two_ranks(), place_of(0)) == Numbers{1, 0.25});
  CHECK(known_speeds(config, small_facts(), two_ranks()) == Numbers{1, 0.25});
  run_ranks(2, [&](Communicator& world) {
    const auto speeds = measured_speeds(config, small_facts(), two_ranks(), place_of(world.rank()), world);
    require(speeds == Numbers{1, 0.25}, "rank {} has other speeds", world.rank());
  });
}
