#include "launcher/observe/prometheus.h"

#include <functional>

#include <fmt/format.h>

namespace frameshard {
namespace {

std::string escaped(const std::string& value) {
  std::string text;
  for (const char c : value) {
    if (c == '\\' || c == '"') text += '\\';
    text += c == '\n' ? std::string("\\n") : std::string(1, c);
  }
  return text;
}

std::string sample(const std::string& metric, const RankStatus& rank, const std::string& more, double value) {
  return fmt::format("{}{{rank=\"{}\",host=\"{}\",device=\"{}\",replica=\"{}\"{}}} {}\n", metric, rank.rank,
                     escaped(rank.host), escaped(rank.device), rank.replica, more, value);
}

struct Metric {
  const char *name, *type, *help;
  std::function<double(const RankStatus&)> value;
};

const Metric metrics[] = {
    {"frameshard_steps_total", "counter", "Denoising steps done since the start.",
     [](auto& rank) { return double(rank.steps_total); }},
    {"frameshard_steps_planned", "gauge", "Denoising steps of all videos that the rank has taken so far.",
     [](auto& rank) { return double(rank.steps_planned); }},
    {"frameshard_videos_done_total", "counter",
     "Videos made; the first rank of a replica counts, the others say 0.",
     [](auto& rank) { return double(rank.videos_done); }},
    {"frameshard_videos_failed_total", "counter",
     "Videos that failed alone; the first rank of a replica counts, the others say 0.",
     [](auto& rank) { return double(rank.videos_failed); }},
    {"frameshard_memory_bytes", "gauge", "Memory in use: allocated on a GPU, resident on a CPU.",
     [](auto& rank) { return double(rank.memory_bytes); }},
    {"frameshard_memory_peak_bytes", "gauge", "The most memory in use since the start.",
     [](auto& rank) { return double(rank.memory_peak_bytes); }},
};

std::string heading(const char* name, const char* type, const char* help) {
  return fmt::format("# HELP {} {}\n# TYPE {} {}\n", name, help, name, type);
}

}  // namespace

std::string prometheus_text(std::span<const RankStatus> ranks) {
  std::string text = heading("frameshard_step_seconds", "gauge", "Seconds of the last denoising step.");
  for (const RankStatus& rank : ranks) {
    if (rank.step_seconds > 0) text += sample("frameshard_step_seconds", rank, "", rank.step_seconds);
  }
  for (const Metric& metric : metrics) {
    text += heading(metric.name, metric.type, metric.help);
    for (const RankStatus& rank : ranks) text += sample(metric.name, rank, "", metric.value(rank));
  }
  text += heading("frameshard_bytes_sent_total", "counter", "Bytes sent to other ranks of the group.");
  for (const RankStatus& rank : ranks) {
    text += sample("frameshard_bytes_sent_total", rank, ",group=\"cp\"", double(rank.cp_bytes));
    text += sample("frameshard_bytes_sent_total", rank, ",group=\"cfg\"", double(rank.cfg_bytes));
  }
  text += heading("frameshard_phase", "gauge", "1 for what the rank is doing.");
  for (const RankStatus& rank : ranks) {
    text += sample("frameshard_phase", rank, fmt::format(",phase=\"{}\"", escaped(rank.phase)), 1);
  }
  return text;
}

}  // namespace frameshard
