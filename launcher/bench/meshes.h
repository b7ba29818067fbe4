// Which meshes `frameshard bench` measures, and what each is compared with. Pure.
#pragma once

#include <string>
#include <vector>

#include "parallel/mesh.h"

namespace frameshard {

/// One measurement: a mesh, and whether a step computes one guidance branch or both.
struct BenchCase {
  MeshShape mesh;
  bool guided =
      false;  ///< where a CFG group has something to divide; context parallelism is measured without

  bool single() const { return mesh.ranks() == 1; }
};
bool operator==(const BenchCase& a, const BenchCase& b);

/// The tables of the report, in their order.
enum class BenchTable { context, guidance, hybrid, data };
BenchTable table_of(const BenchCase& what);

/// "dp2xcfg2xcp4" without the axes of one rank; "single" for one rank.
std::string mesh_name(MeshShape mesh);

/// One rank that does the same work, guidance on or off.
BenchCase baseline_of(const BenchCase& what);

/// "cp2,cfg2,cfg2xcp2,dp2" or "single". 64 for anything else.
std::vector<BenchCase> parse_meshes(const std::string& list);

/// Every kind of mesh over 2, 4, 8, … and all of the ranks, as far as there are tokens for them.
std::vector<BenchCase> default_meshes(int ranks, int64_t tokens);

/// 64 where a mesh needs more ranks than there are, 78 where it has more ranks for the sequence than tokens.
void check_meshes(const std::vector<BenchCase>& cases, int ranks, int64_t tokens);

/// The same with what they are compared with, each once, in the order of the tables.
std::vector<BenchCase> with_baselines(std::vector<BenchCase> cases);

}  // namespace frameshard
