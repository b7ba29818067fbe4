// How the state of all ranks is shown: pure functions of it, and the file exporter.
#include <algorithm>

#include "core/error.h"
#include "launcher/observe/board.h"
#include "launcher/observe/prometheus.h"
#include "launcher/observe/table.h"
#include "tests/support/catch.h"
#include "tests/support/expect_error.h"
#include "tests/support/scratch.h"

using namespace frameshard;
using frameshard::test::caught;
using frameshard::test::contents;
using frameshard::test::Scratch;

namespace {

RankStatus status(int rank) {
  RankStatus made;
  made.rank = rank, made.replica = rank / 2;
  made.host = "b", made.device = "cuda:" + std::to_string(rank);
  made.phase = "denoise", made.step = 17, made.steps = 50;
  made.step_seconds = 0.8125, made.step_median_seconds = 0.75;
  made.steps_total = 67, made.steps_planned = 100, made.videos_done = 1;
  made.cp_bytes = 3000, made.cfg_bytes = 70;
  made.bytes_per_second = 2048;
  made.memory_bytes = int64_t{3} << 30, made.memory_peak_bytes = int64_t{5} << 30;
  made.busy = 0.97;
  return made;
}

std::vector<std::string> lines(const std::string& text) {
  std::vector<std::string> all;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    all.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return all;
}

bool has_line(const std::string& text, const std::string& line) {
  const auto all = lines(text);
  return std::find(all.begin(), all.end(), line) != all.end();
}

}  // namespace

TEST_CASE("a status survives its text") {
  RankStatus before = status(3);
  before.host = "a\"b\\\n";
  const RankStatus after = status_from(to_text(before));
  CHECK(to_text(after) == to_text(before));
  CHECK(after.host == before.host);
  CHECK(after.busy == before.busy);
  before.busy.reset();
  CHECK_FALSE(status_from(to_text(before)).busy.has_value());
}

TEST_CASE("the table has a line a rank") {
  RankStatus fresh;
  fresh.rank = 11, fresh.host = "longer-name", fresh.device = "cpu";
  const auto table = lines(status_table(std::vector{status(1), fresh}));
  REQUIRE(table.size() == 3);
  CHECK(table[0] ==
        "rank  host         device  replica  phase     step  s/step  median    memory      peak        sent  "
        "busy");
  CHECK(table[1] ==
        "   1  b            cuda:1        0  denoise  17/50   0.812   0.750  3.00 GiB  5.00 GiB  2.00 KiB/s  "
        " 97%");
  CHECK(table[2] ==
        "  11  longer-name  cpu           0  start        -       -       -       0 B       0 B       0 B/s  "
        "   -");
}

TEST_CASE("the table stays inside a terminal") {
  std::vector<RankStatus> ranks;
  for (int rank = 0; rank < 8; ++rank) ranks.push_back(status(rank));
  const auto table = lines(status_table(ranks, {.columns = 20, .lines = 5}));
  REQUIRE(table.size() == 5);
  for (const std::string& line : table) CHECK(line.size() <= 20);
  CHECK(table[4] == "and 5 more ranks");
  CHECK(lines(status_table(ranks, {.columns = 0, .lines = 9})).size() == 9);
  CHECK(lines(status_table({}, {.columns = 80, .lines = 24})).size() == 1);
}

TEST_CASE("metrics are labelled with the rank") {
  const std::string text = prometheus_text(std::vector{status(0), status(3)});
  const std::string who = R"({rank="3",host="b",device="cuda:3",replica="1")";
  CHECK(has_line(text, "# TYPE frameshard_steps_total counter"));
  CHECK(has_line(text, "frameshard_step_seconds" + who + "} 0.8125"));
  CHECK(has_line(text, "frameshard_steps_total" + who + "} 67"));
  CHECK(has_line(text, "frameshard_steps_planned" + who + "} 100"));
  CHECK(has_line(text, "frameshard_videos_done_total" + who + "} 1"));
  CHECK(has_line(text, "frameshard_videos_failed_total" + who + "} 0"));
  CHECK(has_line(text, "frameshard_bytes_sent_total" + who + R"(,group="cp"} 3000)"));
  CHECK(has_line(text, "frameshard_bytes_sent_total" + who + R"(,group="cfg"} 70)"));
  CHECK(has_line(text, "frameshard_memory_bytes" + who + "} 3221225472"));
  CHECK(has_line(text, "frameshard_memory_peak_bytes" + who + "} 5368709120"));
  CHECK(has_line(text, "frameshard_phase" + who + R"(,phase="denoise"} 1)"));
}

TEST_CASE("label values are escaped, and a metric without a value is left out") {
  RankStatus odd;
  odd.host = "a\"b\\c\nd";
  const std::string text = prometheus_text(std::vector{odd});
  CHECK(text.find(R"(host="a\"b\\c\nd")") != std::string::npos);
  CHECK(text.find("frameshard_step_seconds{") == std::string::npos);
  CHECK(has_line(text, "# TYPE frameshard_step_seconds gauge"));
}

TEST_CASE("where metrics can go") {
  for (const char* good : {"0", "9100", "65535", "metrics.prom", "./9100", "9100.prom"}) {
    CHECK(target_fault(good).empty());
  }
  CHECK(target_fault("65536").find("65536 is no port") == 0);
  CHECK(target_fault("99999999999999999999").find("is no port") != std::string::npos);
  CHECK_FALSE(target_fault("").empty());
}

TEST_CASE("the board exports how all ended") {
  const Scratch scratch;
  {
    Board board(false, open_exporter((scratch / "m.prom").string(), "job.yaml"));
    board.note(status(1));
    board.note(status(0));
    RankStatus last = status(1);
    last.phase = "done";
    board.note(last);
  }
  const std::string text = contents(scratch / "m.prom");
  CHECK(text == prometheus_text(std::vector{status(0), [] {
                                              RankStatus last = status(1);
                                              last.phase = "done";
                                              return last;
                                            }()}));
  CHECK(scratch.names() == std::set<std::string>{"m.prom"});
}

TEST_CASE("a file that cannot be written is refused at the start, and later a warning") {
  const Scratch scratch;
  const auto error = caught([&] { open_exporter((scratch / "missing/m.prom").string(), "job.yaml"); });
  CHECK(error.code == ExitCode::io);
  CHECK(error.message.find("missing") != std::string::npos);
  std::filesystem::create_directory(scratch / "d");
  const auto exporter = open_exporter((scratch / "d/m.prom").string(), "job.yaml");
  std::filesystem::remove_all(scratch / "d");
  CHECK_NOTHROW(exporter->publish("x"));
}
