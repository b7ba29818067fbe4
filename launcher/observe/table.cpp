#include "launcher/observe/table.h"

#include <algorithm>
#include <vector>

#include <fmt/format.h>

#include "core/host.h"

namespace frameshard {
namespace {

using Row = std::vector<std::string>;

struct Column {
  const char* title;
  bool text;  // to the left; numbers to the right
};
constexpr Column columns[] = {{"rank", false},   {"host", true},  {"device", true},  {"replica", false},
                              {"phase", true},   {"step", false}, {"s/step", false}, {"median", false},
                              {"memory", false}, {"peak", false}, {"sent", false},   {"busy", false}};

std::string seconds(double value) {
  return value > 0 ? fmt::format("{:.3f}", value) : "-";
}

Row row_of(const RankStatus& status) {
  return {std::to_string(status.rank),
          status.host,
          status.device,
          std::to_string(status.replica),
          status.phase,
          status.steps > 0 ? fmt::format("{}/{}", status.step, status.steps) : "-",
          seconds(status.step_seconds),
          seconds(status.step_median_seconds),
          format_bytes(double(status.memory_bytes)),
          format_bytes(double(status.memory_peak_bytes)),
          format_bytes(status.bytes_per_second) + "/s",
          status.busy ? fmt::format("{:.0f}%", 100 * *status.busy) : "-"};
}

std::string line_of(const Row& row, const std::vector<size_t>& widths) {
  std::string line;
  for (size_t i = 0; i < row.size(); ++i) {
    if (i > 0) line += "  ";
    line +=
        columns[i].text ? fmt::format("{:<{}}", row[i], widths[i]) : fmt::format("{:>{}}", row[i], widths[i]);
  }
  return line;
}

// How many ranks find room below the title, with a line for the others where not all do.
size_t shown_of(size_t ranks, size_t lines) {
  if (lines == 0 || ranks + 1 <= lines) return ranks;
  return lines < 3 ? 1 : lines - 2;
}

}  // namespace

std::string status_table(std::span<const RankStatus> ranks, const TableSize& size) {
  std::vector<Row> rows(1);
  for (const Column& column : columns) rows[0].emplace_back(column.title);
  const size_t shown = shown_of(ranks.size(), size.lines);
  for (const RankStatus& status : ranks.first(shown)) rows.push_back(row_of(status));
  std::vector<size_t> widths(std::size(columns), 0);
  for (const Row& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string table;
  for (const Row& row : rows) {
    std::string line = line_of(row, widths);
    if (size.columns > 0 && line.size() > size.columns) line.resize(size.columns);
    table += line + "\n";
  }
  if (shown < ranks.size()) table += fmt::format("and {} more ranks\n", ranks.size() - shown);
  return table;
}

}  // namespace frameshard
