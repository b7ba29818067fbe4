#include "launcher/bench/report.h"

#include <algorithm>

#include "core/host.h"

namespace frameshard {
namespace {

struct Table {
  BenchTable kind;
  const char *title, *key;
};
constexpr Table tables[] = {
    {BenchTable::context, "context parallelism, guidance off", "cp"},
    {BenchTable::guidance, "CFG parallelism, guidance on", "cfg"},
    {BenchTable::hybrid, "CFG and context parallelism, guidance on", "hybrid"},
    {BenchTable::data, "data parallelism", "dp"},
};

const char* key_of(const Measurement& measurement) {
  return std::find_if(std::begin(tables), std::end(tables),
                      [&](auto& table) { return table.kind == table_of(measurement.what); })
      ->key;
}

Row row_of(const Measurement& measurement, const BenchReport& report, bool requests) {
  const MeshShape mesh = measurement.what.mesh;
  Row row{measurement.what.single() && measurement.what.guided ? "single, guided" : mesh_name(mesh),
          std::to_string(mesh.ranks()),
          fmt::format("{:.4g}", seconds_a_step(measurement)),
          fmt::format("{:.2f}", speedup_of(measurement, report.measured)),
          fmt::format("{:.0f} %", 100 * efficiency_of(measurement, report.measured)),
          format_bytes(measurement.bytes_sent),
          measurement.exchange_share ? fmt::format("{:.1f} %", 100 * *measurement.exchange_share) : "-",
          format_bytes(measurement.activation_bytes)};
  if (requests) row.push_back(fmt::format("{:.3g}", requests_a_second(measurement)));
  return row;
}

// The rows of a table, and above them what they are compared with.
std::string table_text(const Table& table, const BenchReport& report) {
  const bool requests = table.kind == BenchTable::data;
  Row header{"mesh", "ranks", "s/step", "speed-up", "efficiency", "sent a step", "exchange", "activations"};
  if (requests) header.push_back("requests/s");
  std::vector<Row> baselines, rows;
  for (const Measurement& each : report.measured) {
    auto compared = [&](const Measurement& other) {
      return table_of(other.what) == table.kind && baseline_of(other.what) == each.what;
    };
    const bool mine = table_of(each.what) == table.kind;
    if (mine && !each.what.single()) rows.push_back(row_of(each, report, requests));
    if (each.what.single() && std::any_of(report.measured.begin(), report.measured.end(), compared)) {
      baselines.push_back(row_of(each, report, requests));
    }
  }
  if (baselines.empty()) return "";
  rows.insert(rows.begin(), baselines.begin(), baselines.end());
  rows.insert(rows.begin(), header);
  return fmt::format("\n{}\n{}", table.title, aligned(rows));
}

// "2 x AMD EPYC, 2 cores (host a)", a line for each that differs.
std::string devices_text(const BenchReport& report) {
  std::vector<std::pair<std::string, int>> counted;
  for (const BenchDevice& rank : report.devices) {
    const std::string name = fmt::format("{} (host {})", rank.device, rank.host);
    const auto found =
        std::find_if(counted.begin(), counted.end(), [&](auto& each) { return each.first == name; });
    if (found == counted.end()) {
      counted.emplace_back(name, 1);
    } else {
      ++found->second;
    }
  }
  std::string text;
  for (const auto& [name, ranks] : counted) {
    text += fmt::format("{} rank{} on {}\n", ranks, ranks == 1 ? "" : "s", name);
  }
  return text;
}

Json measurement_json(const Measurement& measurement, const BenchReport& report) {
  const MeshShape mesh = measurement.what.mesh;
  return {{"mesh", mesh_name(mesh)},
          {"table", key_of(measurement)},
          {"guidance", measurement.what.guided},
          {"ranks", mesh.ranks()},
          {"dp_size", mesh.dp},
          {"cfg_size", mesh.cfg},
          {"cp_size", mesh.cp},
          {"ulysses_size", measurement.attention.ulysses},
          {"ring_size", measurement.attention.ring},
          {"step_seconds", measurement.step_seconds},
          {"seconds_a_step", seconds_a_step(measurement)},
          {"speedup", speedup_of(measurement, report.measured)},
          {"efficiency", efficiency_of(measurement, report.measured)},
          {"requests_a_second", requests_a_second(measurement)},
          {"bytes_sent_a_step", measurement.bytes_sent},
          {"exchange_share", measurement.exchange_share ? Json(*measurement.exchange_share) : Json(nullptr)},
          {"activation_bytes", measurement.activation_bytes}};
}

// Single-quoted for gnuplot.
std::string quoted(const std::string& text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? "''" : std::string(1, c);
  return out + "'";
}

}  // namespace

std::string aligned(const std::vector<Row>& rows) {
  std::vector<size_t> widths(rows.front().size());
  for (const Row& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const Row& row : rows) {
    text += fmt::format("  {:<{}}", row[0], widths[0]);
    for (size_t i = 1; i < row.size(); ++i) text += fmt::format("  {:>{}}", row[i], widths[i]);
    text += "\n";
  }
  return text;
}

std::string report_text(const BenchReport& report) {
  std::string text = fmt::format(
      "{}, {}: {} tokens, {} of text; {}, {}, {} thread{} a rank; median of {} step{} after {}\n{}"
      "weights a rank: {}; activations: the most beyond them in a step; exchange: mean share of a rank's "
      "time\n",
      report.model, report.size, report.tokens, report.text_tokens, report.dtype, report.backend,
      report.threads, report.threads == 1 ? "" : "s", report.measured.front().step_seconds.size(),
      report.measured.front().step_seconds.size() == 1 ? "" : "s", report.warmup, devices_text(report),
      format_bytes(double(report.weight_bytes)));
  for (const Table& table : tables) text += table_text(table, report);
  return text;
}

Json report_json(const BenchReport& report) {
  Json json = {{"model", report.model},
               {"size", report.size},
               {"tokens", report.tokens},
               {"text_tokens", report.text_tokens},
               {"dtype", report.dtype},
               {"backend", report.backend},
               {"threads_a_rank", report.threads},
               {"warmup_steps", report.warmup},
               {"steps", report.measured.front().step_seconds.size()},
               {"weight_bytes", report.weight_bytes},
               {"machine", {{"versions", report.versions}, {"ranks", Json::array()}}},
               {"meshes", Json::array()}};
  for (const BenchDevice& rank : report.devices) {
    json["machine"]["ranks"].push_back({{"host", rank.host}, {"device", rank.device}, {"cores", rank.cores}});
  }
  for (const Measurement& measurement : report.measured) {
    json["meshes"].push_back(measurement_json(measurement, report));
  }
  return json;
}

std::string plot_script(const BenchReport& report, const std::string& png) {
  std::string data, lines;
  int most = 1;
  for (const Table& table : tables) {
    std::string points = "1 1\n";  // one rank is what all are compared with
    for (const Measurement& each : report.measured) {
      if (table_of(each.what) != table.kind || each.what.single()) continue;
      points += fmt::format("{} {:.6g}\n", each.what.mesh.ranks(), speedup_of(each, report.measured));
      most = std::max(most, each.what.mesh.ranks());
    }
    if (points == "1 1\n") continue;
    data += fmt::format("${} << END\n{}END\n", table.key, points);
    lines += fmt::format(", ${} with linespoints linewidth 2 pointtype 7 title {}", table.key,
                         quoted(table.title));
  }
  return fmt::format(
      "{}set terminal pngcairo size 900,600\nset output {}\nset title {} noenhanced\nset xlabel 'ranks'\n"
      "set ylabel 'speed-up against one rank'\nset key top left\nset grid\nset xrange [1:{}]\nset xtics "
      "{}\nset yrange [0:*]\n"
      "plot x with lines dashtype 2 linecolor 'gray' title 'ideal'{}\n",
      data, quoted(png), quoted(fmt::format("{}, {}, {}", report.model, report.size, report.dtype)),
      std::max(most, 2), std::max(1, most / 8), lines);
}

}  // namespace frameshard
