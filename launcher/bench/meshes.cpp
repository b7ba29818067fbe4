#include "launcher/bench/meshes.h"

#include <algorithm>
#include <charconv>
#include <tuple>

#include "core/error.h"
#include "core/text.h"

namespace frameshard {
namespace {

constexpr int most_ranks = 65536;

std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> parts;
  for (size_t begin = 0;;) {
    const size_t end = text.find(at, begin);
    parts.push_back(text.substr(begin, end - begin));
    if (end == std::string::npos) return parts;
    begin = end + 1;
  }
}

[[noreturn]] void refuse(const std::string& word) {
  fail(ExitCode::usage,
       "--meshes: {} is no mesh; write cp, cfg and dp with their sizes, as in cp4, cfg2, cfg2xcp2, dp2, or "
       "single",
       quote_for_message(word));
}

// The axis that a part such as "cp4" names, and its size.
void take_axis(MeshShape& mesh, const std::string& part, const std::string& word) {
  struct Axis {
    const char* name;
    int MeshShape::*size;
    int most;
  };
  for (const Axis& axis : {Axis{"cp", &MeshShape::cp, most_ranks},
                           {"cfg", &MeshShape::cfg, 2},
                           {"dp", &MeshShape::dp, most_ranks}}) {
    if (!part.starts_with(axis.name)) continue;
    const char* begin = part.data() + std::string(axis.name).size();
    const char* end = part.data() + part.size();
    int size = 0;
    const auto [rest, error] = std::from_chars(begin, end, size);
    if (error != std::errc() || rest != end || size < 1 || mesh.*axis.size != 1) refuse(word);
    if (size > axis.most) {
      fail(ExitCode::usage, "--meshes: {}: {} is at most {}", quote_for_message(word), axis.name, axis.most);
    }
    mesh.*axis.size = size;
    return;
  }
  refuse(word);
}

BenchCase parse_mesh(const std::string& word) {
  BenchCase what;
  if (word == "single") return what;
  for (const std::string& part : split(word, 'x')) take_axis(what.mesh, part, word);
  if (int64_t(what.mesh.dp) * what.mesh.cfg * what.mesh.cp > most_ranks) {
    fail(ExitCode::usage, "--meshes: {}: at most {} ranks in all", quote_for_message(word), most_ranks);
  }
  what.guided = what.mesh.cfg > 1;
  return what;
}

// 2, 4, 8, … up to `most`, and `most` itself.
std::vector<int> sizes_to(int64_t most) {
  std::vector<int> sizes;
  for (int64_t size = 2; size <= most; size *= 2) sizes.push_back(int(size));
  if (most > 1 && sizes.back() != most) sizes.push_back(int(most));
  return sizes;
}

}  // namespace

bool operator==(const BenchCase& a, const BenchCase& b) {
  return a.guided == b.guided && a.mesh.dp == b.mesh.dp && a.mesh.cfg == b.mesh.cfg && a.mesh.cp == b.mesh.cp;
}

BenchTable table_of(const BenchCase& what) {
  if (what.mesh.dp > 1) return BenchTable::data;
  if (what.mesh.cfg > 1 && what.mesh.cp > 1) return BenchTable::hybrid;
  return what.guided ? BenchTable::guidance : BenchTable::context;
}

std::string mesh_name(MeshShape mesh) {
  std::string name;
  for (const auto& [axis, size] : {std::pair("dp", mesh.dp), {"cfg", mesh.cfg}, {"cp", mesh.cp}}) {
    if (size > 1) name += fmt::format("{}{}{}", name.empty() ? "" : "x", axis, size);
  }
  return name.empty() ? "single" : name;
}

BenchCase baseline_of(const BenchCase& what) {
  return {.mesh = {}, .guided = what.guided};
}

std::vector<BenchCase> parse_meshes(const std::string& list) {
  std::vector<BenchCase> cases;
  for (const std::string& word : split(list, ',')) cases.push_back(parse_mesh(word));
  return cases;
}

std::vector<BenchCase> default_meshes(int ranks, int64_t tokens) {
  std::vector<BenchCase> cases{{.mesh = {}, .guided = false}, {.mesh = {}, .guided = true}};
  for (int cp : sizes_to(std::min<int64_t>(ranks, tokens))) cases.push_back({.mesh = {.cp = cp}});
  if (ranks >= 2) cases.push_back({.mesh = {.cfg = 2}, .guided = true});
  for (int cp : sizes_to(std::min<int64_t>(ranks / 2, tokens))) {
    cases.push_back({.mesh = {.cfg = 2, .cp = cp}, .guided = true});
  }
  for (int dp : sizes_to(ranks)) cases.push_back({.mesh = {.dp = dp}});
  return cases;
}

void check_meshes(const std::vector<BenchCase>& cases, int ranks, int64_t tokens) {
  for (const auto& [mesh, guided] : cases) {
    if (mesh.cp > tokens) {
      fail(ExitCode::config,
           "mesh {} has {} ranks for the sequence, and this video has {} token{}; choose a larger --size or "
           "fewer ranks",
           mesh_name(mesh), mesh.cp, tokens, tokens == 1 ? "" : "s");
    }
  }
  const auto largest = std::max_element(cases.begin(), cases.end(),
                                        [](auto& a, auto& b) { return a.mesh.ranks() < b.mesh.ranks(); });
  const int needed = largest->mesh.ranks();
  if (needed <= ranks) return;
  fail(ExitCode::usage,
       "mesh {} needs {} ranks, and there {} {}; start {}: frameshard launch --nproc-per-node {} bench ..., "
       "or "
       "mpirun -n {} frameshard bench ...",
       mesh_name(largest->mesh), needed, ranks == 1 ? "is" : "are", ranks, needed, needed, needed);
}

std::vector<BenchCase> with_baselines(std::vector<BenchCase> cases) {
  const std::vector<BenchCase> wanted = cases;
  for (const BenchCase& what : wanted) cases.push_back(baseline_of(what));
  auto key = [](const BenchCase& what) {
    return std::tuple(table_of(what), what.mesh.ranks(), what.mesh.cp, what.mesh.cfg, what.guided);
  };
  std::sort(cases.begin(), cases.end(), [&](auto& a, auto& b) { return key(a) < key(b); });
  cases.erase(std::unique(cases.begin(), cases.end()), cases.end());
  return cases;
}

}  // namespace frameshard
