// Spans of a rank, and the file that they make.
#include <nlohmann/json.hpp>

#include "core/phase.h"
#include "core/trace.h"
#include "tests/support/catch.h"

using namespace frameshard;
using namespace std::chrono_literals;
using Json = nlohmann::json;

namespace {

TraceSpan span(const std::string& name, std::chrono::nanoseconds begin, std::chrono::nanoseconds end) {
  TraceSpan made;
  made.name = name;
  made.begin = TraceClock::time_point(begin), made.end = TraceClock::time_point(end);
  return made;
}

TraceProcess process(int rank, std::chrono::nanoseconds to_axis = 0ns) {
  return {.rank = rank, .name = "rank \"" + std::to_string(rank) + "\"", .to_axis = to_axis};
}

Json read(const std::vector<std::string>& events) {
  return Json::parse(trace_file(events, R"({"note":"x"})"));
}

std::vector<std::string> names(const TraceRecorder::Recorded& recorded) {
  std::vector<std::string> all;
  for (const TraceSpan& span : recorded.spans) all.push_back(span.name);
  return all;
}

}  // namespace

TEST_CASE("a trace is JSON with a process a rank") {
  const std::vector<std::string> events{trace_events({span("a \"b\"\n\\", 1us, 3us)}, process(0)),
                                        trace_events({}, process(3))};
  const Json json = read(events);
  CHECK(json["otherData"]["note"] == "x");
  REQUIRE(json["traceEvents"].size() == 5);
  CHECK(json["traceEvents"][0]["name"] == "process_name");
  CHECK(json["traceEvents"][0]["args"]["name"] == "rank \"0\"");
  const Json& event = json["traceEvents"][2];
  CHECK(event["name"] == "a \"b\"\n\\");
  CHECK(event["ph"] == "X");
  CHECK(event["ts"] == 1.0);
  CHECK(event["dur"] == 2.0);
  CHECK_FALSE(event.contains("args"));
  CHECK(json["traceEvents"][3]["pid"] == 3);
}

TEST_CASE("times are exact to the nanosecond and lie on rank 0's axis") {
  const int64_t hour = 3'600'000'000'000;
  const std::string text =
      trace_events({span("x", std::chrono::nanoseconds(hour + 1), std::chrono::nanoseconds(hour + 2003))},
                   process(1, std::chrono::nanoseconds(500 - hour)));
  CHECK(text.find(R"("ts":0.501,"dur":2.002)") != std::string::npos);
  const std::string before = trace_events({span("x", 0ns, 1ns)}, process(1, -1500ns));
  CHECK(before.find(R"("ts":-1.500)") != std::string::npos);
}

TEST_CASE("a collective has bytes and group size") {
  TraceSpan collective = span("all_to_all cp{0,1}", 0ns, 1us);
  collective.group_size = 2, collective.bytes_sent = 4096;
  const Json event = read({trace_events({collective}, process(0))})["traceEvents"][2];
  CHECK(event["cat"] == "collective");
  CHECK(event["args"] == Json{{"bytes", 4096}, {"group_size", 2}});
}

TEST_CASE("outer spans come before what lies in them") {
  const Json json = read(
      {trace_events({span("inner", 1us, 2us), span("last", 5us, 6us), span("outer", 1us, 4us)}, process(0))});
  CHECK(json["traceEvents"][2]["name"] == "outer");
  CHECK(json["traceEvents"][3]["name"] == "inner");
  CHECK(json["traceEvents"][4]["name"] == "last");
}

TEST_CASE("phases follow each other without a gap and hold what happens in them") {
  TraceRecorder recorder;
  set_phase("load");
  { const TraceScope inner("read"); }
  set_phase("denoise", 2, 5);
  const auto first = recorder.take();
  REQUIRE(names(first) == std::vector<std::string>{"read", "load", "denoise 2/5"});
  CHECK(first.spans[1].begin <= first.spans[0].begin);
  CHECK(first.spans[0].end <= first.spans[1].end);
  CHECK(first.spans[1].end == first.spans[2].begin);
  set_phase("queue");
  const auto second = recorder.take();
  REQUIRE(names(second) == std::vector<std::string>{"denoise 2/5", "queue"});
  CHECK(second.spans[0].begin == first.spans[2].end);  // cut in two
}

TEST_CASE("spans beyond the limit are counted") {
  TraceRecorder recorder(3);
  for (int i = 0; i < 5; ++i) const TraceScope scope("x");
  const auto recorded = recorder.take();
  CHECK(recorded.spans.size() == 3);
  CHECK(recorded.left_out == 2);
  { const TraceScope scope("y"); }
  CHECK(names(recorder.take()) == std::vector<std::string>{"y"});
}

TEST_CASE("nothing is recorded where nobody asks") {
  CHECK(TraceRecorder::current() == nullptr);
  { const TraceScope scope("x"); }
  {
    TraceRecorder recorder;
    CHECK(TraceRecorder::current() == &recorder);
    CHECK(recorder.take().spans.empty());
  }
  CHECK(TraceRecorder::current() == nullptr);
}

TEST_CASE("a listener hears of phases until it is taken away") {
  std::vector<std::string> heard;
  set_phase_listener([&](const std::string& name, int64_t step, int64_t steps) {
    heard.push_back(name + " " + std::to_string(step) + " " + std::to_string(steps));
  });
  set_phase("denoise", 3, 7);
  set_phase_listener({});
  set_phase("queue");
  CHECK(heard == std::vector<std::string>{"denoise 3 7"});
}
