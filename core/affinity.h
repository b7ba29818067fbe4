// Which cores a process runs on.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace frameshard {

/// Where the kernel lists the NUMA nodes and their cores.
inline const std::filesystem::path kernel_numa_nodes = "/sys/devices/system/node";

/// The cores that this process may run on, those of one NUMA node together, in ascending order of nodes.
std::vector<int> allowed_cpus(const std::filesystem::path& nodes = kernel_numa_nodes);
/// Of them, those of one NUMA node; all of them where the node is unknown (-1) or has none of them.
std::vector<int> allowed_cpus_of_node(int numa_node, const std::filesystem::path& nodes = kernel_numa_nodes);

/// The allowed cores of the NUMA node in which all of these lie; all allowed ones where they lie in several.
std::vector<int> allowed_neighbours(const std::vector<int>& cpus,
                                    const std::filesystem::path& nodes = kernel_numa_nodes);

/// "0-3,8,10-11" as the kernel writes lists of cores; what cannot be read is left out.
std::vector<int> parse_cpu_list(const std::string& text);

/// Part `index` of `parts` consecutive pieces of equal size; what does not divide is left over.
std::vector<int> share_of_cpus(const std::vector<int>& cpus, int index, int parts);

/// Keeps the calling thread, and those that it starts from now on, on these cores. False where the system
/// refuses.
bool run_on_cpus(const std::vector<int>& cpus);

}  // namespace frameshard
