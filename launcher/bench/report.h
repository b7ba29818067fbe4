// What `frameshard bench` prints and writes. Pure.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "core/io/json_file.h"
#include "launcher/bench/measurement.h"

namespace frameshard {

/// One rank's machine.
struct BenchDevice {
  std::string host, device;  ///< names
  int cores = 0;             ///< that the process may run on
};

struct BenchReport {
  std::string model, size, dtype, backend;
  int64_t tokens = 0, text_tokens = 0;
  int warmup = 0, threads = 1;
  int64_t weight_bytes = 0;            ///< a rank
  std::vector<BenchDevice> devices{};  ///< a rank each
  std::map<std::string, std::string> versions{};
  std::vector<Measurement> measured{};  ///< with_baselines() of what was asked for, in its order
};

/// Cells under each other, columns as wide as their widest one: the first to the left, others to the right.
using Row = std::vector<std::string>;
std::string aligned(const std::vector<Row>& rows);

/// Tables for people: context parallelism, CFG parallelism, both, data parallelism.
std::string report_text(const BenchReport& report);

/// The same numbers, with the time of every timed step.
Json report_json(const BenchReport& report);

/// For gnuplot: the speed-up over ranks, a line a table, and the ideal one; into a PNG file.
std::string plot_script(const BenchReport& report, const std::string& png);

}  // namespace frameshard
