// What `frameshard doctor` says: findings, a line each, and how those of many ranks become few lines.
#pragma once

#include <string>
#include <vector>

#include "core/io/json_file.h"

namespace frameshard {

enum class Verdict {
  ok,
  change,  ///< something is wrong: the finding says what to do
  note,    ///< cannot be told here, or has no effect on the result
};

/// What a finding is about: one process, all processes of a host, or the whole job.
enum class Scope { rank, host, job };

struct Finding {
  Verdict verdict = Verdict::ok;
  std::string subject;  ///< "MPI"
  std::string text;     ///< what was seen, or what is wrong
  std::string cure;     ///< what to do; for changes, and for notes that have one
  Scope scope = Scope::rank;

  bool operator==(const Finding&) const = default;
};
using Findings = std::vector<Finding>;

Finding ok(const std::string& subject, const std::string& text, Scope scope);
Finding change(const std::string& subject, const std::string& text, const std::string& cure, Scope scope);
Finding note(const std::string& subject, const std::string& text, Scope scope);

/// "CHANGE limits: 256 open files; ulimit -n 1024"
std::string line_of(const Finding& finding);

/// A finding and who made it.
struct Report {
  Finding finding;
  int rank = 0;
  std::string host;
};

/// One line for each different finding, those of a subject together, in the order of their first appearance;
/// each says whom it holds for where that is not plain. `world`: ranks of the job.
std::vector<std::string> grouped_lines(const std::vector<Report>& reports, int world);

/// "0-3,6" for sorted ranks.
std::string ranks_text(const std::vector<int>& ranks);

/// Counts of the lines that grouped_lines gives.
struct Tally {
  int ok = 0, change = 0;
};
Tally count_lines(const std::vector<std::string>& lines);
/// "doctor: 14 ok, 1 to change"
std::string tally_line(const Tally& tally);

Json to_json(const Findings& findings);
/// 1 for what to_json did not write.
Findings findings_from_json(const Json& json);

}  // namespace frameshard
