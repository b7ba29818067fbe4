#include "core/affinity.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include <sched.h>

namespace frameshard {
namespace {

// NUMA node -> its cores; empty where the kernel does not say.
std::map<int, std::vector<int>> numa_nodes(const std::filesystem::path& root) {
  std::map<int, std::vector<int>> nodes;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(root, ignored)) {
    const std::string name = entry.path().filename();
    int number = -1;
    if (!name.starts_with("node") ||
        std::from_chars(name.data() + 4, name.data() + name.size(), number).ec != std::errc{})
      continue;
    std::ifstream in(entry.path() / "cpulist");
    std::string text;
    std::getline(in, text);
    nodes[number] = parse_cpu_list(text);
  }
  return nodes;
}

bool allowed(const cpu_set_t& set, int cpu) {
  return cpu >= 0 && cpu < CPU_SETSIZE && CPU_ISSET(cpu, &set);
}

}  // namespace

std::vector<int> parse_cpu_list(const std::string& text) {
  std::vector<int> cpus;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, ',');) {
    int first = 0, last = 0;
    const char* end = part.data() + part.size();
    auto read = std::from_chars(part.data(), end, first);
    if (read.ec != std::errc{}) continue;
    last = first;
    if (read.ptr != end && *read.ptr == '-') std::from_chars(read.ptr + 1, end, last);
    for (int cpu = first; cpu <= std::min(last, CPU_SETSIZE - 1); ++cpu) cpus.push_back(cpu);
  }
  return cpus;
}

std::vector<int> allowed_cpus(const std::filesystem::path& nodes) {
  cpu_set_t set;
  CPU_ZERO(&set);
  sched_getaffinity(0, sizeof set, &set);
  std::vector<int> cpus;
  for (const auto& [node, members] : numa_nodes(nodes)) {
    for (const int cpu : members) {
      if (allowed(set, cpu)) cpus.push_back(cpu);
    }
  }
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {  // those of no node that is shown
    if (allowed(set, cpu) && std::find(cpus.begin(), cpus.end(), cpu) == cpus.end()) cpus.push_back(cpu);
  }
  return cpus;
}

std::vector<int> allowed_cpus_of_node(int numa_node, const std::filesystem::path& nodes) {
  const auto all = allowed_cpus(nodes), members = numa_nodes(nodes)[numa_node];
  std::vector<int> cpus;
  std::copy_if(all.begin(), all.end(), std::back_inserter(cpus),
               [&](int cpu) { return std::find(members.begin(), members.end(), cpu) != members.end(); });
  return cpus.empty() ? all : cpus;
}

std::vector<int> allowed_neighbours(const std::vector<int>& cpus, const std::filesystem::path& nodes) {
  for (const auto& [node, members] : numa_nodes(nodes)) {
    const std::vector<int>& own = members;  // clang 14 captures no structured binding
    const bool inside = std::all_of(cpus.begin(), cpus.end(), [&](int cpu) {
      return std::find(own.begin(), own.end(), cpu) != own.end();
    });
    if (inside) return allowed_cpus_of_node(node, nodes);
  }
  return allowed_cpus(nodes);
}

std::vector<int> share_of_cpus(const std::vector<int>& cpus, int index, int parts) {
  const size_t each = cpus.size() / size_t(parts);
  const auto begin = cpus.begin() + std::ptrdiff_t(each * size_t(index));
  return {begin, begin + std::ptrdiff_t(each)};
}

bool run_on_cpus(const std::vector<int>& cpus) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int cpu : cpus) CPU_SET(cpu, &set);
  return !cpus.empty() && sched_setaffinity(0, sizeof set, &set) == 0;
}

}  // namespace frameshard
