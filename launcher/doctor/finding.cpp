#include "launcher/doctor/finding.h"

#include <algorithm>
#include <map>
#include <set>

#include "core/error.h"

namespace frameshard {
namespace {

const char* label(Verdict verdict) {
  return verdict == Verdict::ok ? "ok" : verdict == Verdict::change ? "CHANGE" : "note";
}

// Equal findings, and all who made them.
struct Group {
  Finding finding;
  std::map<std::string, std::vector<int>> ranks_of_host;

  int ranks() const {
    int count = 0;
    for (const auto& [host, ranks] : ranks_of_host) count += int(ranks.size());
    return count;
  }
};

std::vector<Group> group(const std::vector<Report>& reports) {
  std::vector<Group> groups;
  std::vector<std::string> subjects;
  for (const Report& report : reports) {
    auto found = std::find_if(groups.begin(), groups.end(),
                              [&](const Group& group) { return group.finding == report.finding; });
    if (found == groups.end()) found = groups.insert(groups.end(), {report.finding, {}});
    found->ranks_of_host[report.host].push_back(report.rank);
    if (std::find(subjects.begin(), subjects.end(), report.finding.subject) == subjects.end()) {
      subjects.push_back(report.finding.subject);
    }
  }
  const auto place = [&](const Group& group) {
    return std::find(subjects.begin(), subjects.end(), group.finding.subject);
  };
  std::stable_sort(groups.begin(), groups.end(),
                   [&](const Group& a, const Group& b) { return place(a) < place(b); });
  return groups;
}

// " [ranks 0-1 on a; rank 3 on b]"; nothing where all are meant and there is no other way to read the line.
std::string who(const Group& group, int world, size_t hosts) {
  const Scope scope = group.finding.scope;
  if (world == 1 || scope == Scope::job || (scope == Scope::host && hosts == 1)) return "";
  if (scope == Scope::host) {
    if (group.ranks_of_host.size() == hosts) return " [all hosts]";
    std::vector<std::string> names;
    for (const auto& [host, ranks] : group.ranks_of_host) names.push_back(host);
    return fmt::format(" [host{} {}]", names.size() == 1 ? "" : "s", fmt::join(names, ", "));
  }
  if (group.ranks() == world) return " [all ranks]";
  std::vector<std::string> parts;
  for (const auto& [host, ranks] : group.ranks_of_host) {
    parts.push_back(fmt::format("rank{} {}{}", ranks.size() == 1 ? "" : "s", ranks_text(ranks),
                                hosts == 1 ? "" : " on " + host));
  }
  return fmt::format(" [{}]", fmt::join(parts, "; "));
}

}  // namespace

Finding ok(const std::string& subject, const std::string& text, Scope scope) {
  return {.verdict = Verdict::ok, .subject = subject, .text = text, .cure = "", .scope = scope};
}
Finding change(const std::string& subject, const std::string& text, const std::string& cure, Scope scope) {
  return {.verdict = Verdict::change, .subject = subject, .text = text, .cure = cure, .scope = scope};
}
Finding note(const std::string& subject, const std::string& text, Scope scope) {
  return {.verdict = Verdict::note, .subject = subject, .text = text, .cure = "", .scope = scope};
}

std::string line_of(const Finding& finding) {
  return fmt::format("{:<7}{}: {}{}{}", label(finding.verdict), finding.subject, finding.text,
                     finding.cure.empty() ? "" : "; ", finding.cure);
}

std::string ranks_text(const std::vector<int>& ranks) {
  std::vector<std::string> runs;
  for (size_t i = 0; i < ranks.size();) {
    size_t end = i + 1;
    while (end < ranks.size() && ranks[end] == ranks[end - 1] + 1) ++end;
    runs.push_back(end - i == 1 ? std::to_string(ranks[i]) : fmt::format("{}-{}", ranks[i], ranks[end - 1]));
    i = end;
  }
  return fmt::format("{}", fmt::join(runs, ","));
}

std::vector<std::string> grouped_lines(const std::vector<Report>& reports, int world) {
  std::set<std::string> hosts;
  for (const Report& report : reports) hosts.insert(report.host);
  std::vector<std::string> lines;
  for (const Group& group : group(reports)) {
    lines.push_back(line_of(group.finding) + who(group, world, hosts.size()));
  }
  return lines;
}

Tally count_lines(const std::vector<std::string>& lines) {
  Tally tally;
  for (const std::string& line : lines) {
    tally.ok += line.starts_with("ok ");
    tally.change += line.starts_with("CHANGE ");
  }
  return tally;
}

std::string tally_line(const Tally& tally) {
  return fmt::format("doctor: {} ok, {} to change", tally.ok, tally.change);
}

Json to_json(const Findings& findings) {
  Json list = Json::array();
  for (const Finding& f : findings) {
    list.push_back({int(f.verdict), f.subject, f.text, f.cure, int(f.scope)});
  }
  return list;
}

Findings findings_from_json(const Json& json) {
  Findings findings;
  for (const Json& f : json) {
    require(f.is_array() && f.size() == 5, "a finding of {} parts", f.size());
    findings.push_back({.verdict = Verdict(f[0].get<int>()),
                        .subject = f[1].get<std::string>(),
                        .text = f[2].get<std::string>(),
                        .cure = f[3].get<std::string>(),
                        .scope = Scope(f[4].get<int>())});
  }
  return findings;
}

}  // namespace frameshard
