// What a rank was doing and when, as spans for a Chrome trace (opens in Perfetto and chrome://tracing). Where
// nobody records, a span costs one branch.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace frameshard {

using TraceClock = std::chrono::steady_clock;

struct TraceSpan {
  std::string name;
  TraceClock::time_point begin, end;
  int group_size = 0;      ///< of a collective; 0: it is none
  int64_t bytes_sent = 0;  ///< to other ranks, by this rank
};

/// The spans of one rank's thread. Not for several threads: each rank has its own.
class TraceRecorder {
 public:
  /// Records this thread from now on, until it is destroyed. Spans beyond `most` are counted alone.
  explicit TraceRecorder(size_t most = 1'000'000);
  ~TraceRecorder();
  TraceRecorder(const TraceRecorder&) = delete;
  TraceRecorder& operator=(const TraceRecorder&) = delete;

  /// This thread's recorder, or null.
  static TraceRecorder* current();

  /// Ends the running phase, whose span lies around all others of its time, and begins another.
  void enter(const std::string& phase);
  void add(TraceSpan span);

  struct Recorded {
    std::vector<TraceSpan> spans;
    int64_t left_out = 0;  ///< spans that were too many
  };
  /// What came since the last call. The running phase is cut here: one part now, the other next time.
  Recorded take();

 private:
  void close_phase(TraceClock::time_point now);

  size_t most_;
  Recorded recorded_;
  std::optional<TraceSpan> phase_;
};

/// A span that lasts as long as this object.
class TraceScope {
 public:
  explicit TraceScope(const char* name) : recorder_(TraceRecorder::current()), name_(name) {
    if (recorder_) begin_ = TraceClock::now();
  }
  ~TraceScope() {
    if (recorder_) recorder_->add({.name = name_, .begin = begin_, .end = TraceClock::now()});
  }
  TraceScope(const TraceScope&) = delete;
  TraceScope& operator=(const TraceScope&) = delete;

 private:
  TraceRecorder* recorder_;
  const char* name_;
  TraceClock::time_point begin_;
};

/// A rank in the file, where it is a process.
struct TraceProcess {
  int rank = 0;
  std::string name;                  ///< "rank 3 (host b, cpu)"
  std::chrono::nanoseconds to_axis;  ///< its clock plus this is the time in the file
};

/// The events of one rank, as JSON objects with commas between them. Format: "Trace Event Format" of the
/// Chromium project, complete events ("X"), microseconds.
std::string trace_events(std::vector<TraceSpan> spans, const TraceProcess& process);

/// The file's text from the events of its ranks; `other_data` is a JSON object.
std::string trace_file(std::span<const std::string> events, const std::string& other_data);

}  // namespace frameshard
