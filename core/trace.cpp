#include "core/trace.h"

#include <algorithm>
#include <tuple>

#include <fmt/format.h>

#include "core/io/json_file.h"

namespace frameshard {
namespace {

thread_local TraceRecorder* this_thread = nullptr;

std::string quoted(const std::string& text) {
  return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

// Exact, so that what is nested stays nested.
std::string microseconds(std::chrono::nanoseconds time) {
  const int64_t count = std::abs(time.count());
  return fmt::format("{}{}.{:03}", time.count() < 0 ? "-" : "", count / 1000, count % 1000);
}

std::string event(const TraceSpan& span, const TraceProcess& process) {
  const auto begin = span.begin.time_since_epoch() + process.to_axis;
  std::string text = fmt::format(R"({{"name":{},"cat":"{}","ph":"X","ts":{},"dur":{},"pid":{},"tid":0)",
                                 quoted(span.name), span.group_size > 0 ? "collective" : "phase",
                                 microseconds(begin), microseconds(span.end - span.begin), process.rank);
  if (span.group_size > 0) {
    text += fmt::format(R"(,"args":{{"bytes":{},"group_size":{}}})", span.bytes_sent, span.group_size);
  }
  return text + "}";
}

std::string metadata(const char* name, const std::string& argument, int rank) {
  return fmt::format(R"({{"name":"{}","ph":"M","pid":{},"tid":0,"args":{{{}}}}})", name, rank, argument);
}

}  // namespace

TraceRecorder::TraceRecorder(size_t most) : most_(most) {
  this_thread = this;
}

TraceRecorder::~TraceRecorder() {
  this_thread = nullptr;
}

TraceRecorder* TraceRecorder::current() {
  return this_thread;
}

void TraceRecorder::enter(const std::string& phase) {
  const auto now = TraceClock::now();
  close_phase(now);
  phase_ = {.name = phase, .begin = now, .end = now};
}

void TraceRecorder::add(TraceSpan span) {
  if (recorded_.spans.size() < most_) {
    recorded_.spans.push_back(std::move(span));
  } else {
    ++recorded_.left_out;
  }
}

TraceRecorder::Recorded TraceRecorder::take() {
  const auto now = TraceClock::now();
  close_phase(now);
  if (phase_) phase_->begin = now;
  return std::exchange(recorded_, {});
}

void TraceRecorder::close_phase(TraceClock::time_point now) {
  if (!phase_) return;
  phase_->end = now;
  add(*phase_);
}

std::string trace_events(std::vector<TraceSpan> spans, const TraceProcess& process) {
  // Of spans that begin together the outer one comes first.
  std::sort(spans.begin(), spans.end(), [](const TraceSpan& a, const TraceSpan& b) {
    return std::tie(a.begin, b.end) < std::tie(b.begin, a.end);
  });
  std::string text = metadata("process_name", "\"name\":" + quoted(process.name), process.rank);
  text +=
      ",\n" + metadata("process_sort_index", fmt::format("\"sort_index\":{}", process.rank), process.rank);
  for (const TraceSpan& span : spans) text += ",\n" + event(span, process);
  return text;
}

std::string trace_file(std::span<const std::string> events, const std::string& other_data) {
  return fmt::format("{{\"displayTimeUnit\":\"ms\",\"otherData\":{},\"traceEvents\":[\n{}\n]}}\n", other_data,
                     fmt::join(events, ",\n"));
}

}  // namespace frameshard
