// Do the program's MPI, the mpirun on PATH and the launcher that started this process belong together?
// A launcher of another MPI starts n runs of one rank each, which all end with exit code 0.
#pragma once

#include <optional>

#include "launcher/doctor/finding.h"
#include "parallel/comm/mpi_session.h"

namespace frameshard {

struct MpiRelease {
  std::string family;  ///< "Open MPI", "PRRTE", "MPICH", "Intel MPI"
  int major = 0, minor = 0, patch = 0;

  std::string text() const;
  bool operator==(const MpiRelease&) const = default;
};

/// Reads what a library says of itself ("Open MPI v4.1.4") and what mpirun or prterun prints for --version
/// ("mpirun (Open MPI) 4.1.4", "prterun (PRRTE) 3.0.5", MPICH's "HYDRA build details"). Nothing for others.
std::optional<MpiRelease> parse_mpi_release(const std::string& text);

struct MpiFacts {
  std::string library;       ///< of mpi_version()
  std::string program;       ///< path of mpirun or prterun; empty where neither is on PATH
  std::string program_text;  ///< what it prints for --version
  bool program_ended = true;
  bool started_by_orte = false;  ///< by an mpirun of Open MPI 4 or older, as the variables say
  LauncherEnvironment environment;
  int world = 1;  ///< ranks, as MPI says
};

/// Of this process.
MpiFacts mpi_facts(int world);
/// Adds the mpirun or prterun on PATH, which is asked for its version.
void find_mpirun(MpiFacts& facts);
/// The library against mpirun and against the launcher: of a host.
Findings check_mpi_programs(const MpiFacts& facts);
/// The launcher's world size against MPI's: of a rank.
Findings check_launcher(const MpiFacts& facts);

}  // namespace frameshard
