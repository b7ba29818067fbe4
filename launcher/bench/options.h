// The flags of `frameshard bench`.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace frameshard {

struct BenchOptions {
  std::string model;           ///< empty: what suits the devices that are here
  std::string size;            ///< "832x480x81"; empty: the model's usual one
  std::string meshes;          ///< "cp2,cfg2"; empty: all that the ranks allow
  std::optional<int> steps;    ///< timed; left out: 5 on CPUs, 10 on GPUs
  int warmup = 2;              ///< steps before them
  std::optional<int> threads;  ///< a rank; left out: OMP_NUM_THREADS, else 1
  std::string dtype = "auto";
  std::optional<int> ring;           ///< infer.attention.ring_size; left out: what the plan chooses
  std::string overlap = "auto";      ///< infer.overlap_exchange
  std::string cuda_graph = "auto";   ///< infer.cuda_graph
  std::string json, plot;            ///< files; empty: none
  std::vector<std::string> compare;  ///< KEY=VALUE[,KEY=VALUE] each; empty: meshes are measured
};

void add_bench_options(CLI::App& command, BenchOptions& options);

/// The same text for the same options: ranks compare it.
std::string options_text(const BenchOptions& options);

struct VideoSize {
  int64_t width = 0, height = 0, frames = 0;

  std::string text() const;  ///< "832x480x81"
};
/// "832x480x81"; 64 for another form, for sides that are no multiples of 16, and for frames that are not
/// 4k+1.
VideoSize parse_size(const std::string& text);

}  // namespace frameshard
