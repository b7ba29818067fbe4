#include "launcher/doctor/mpi_match.h"

#include <array>
#include <cstdio>
#include <cstdlib>

#include "core/process.h"

namespace frameshard {
namespace {

constexpr const char* subject = "MPI";
constexpr double version_seconds = 10;  // a home directory on a slow network, not more

std::string first_line(const std::string& text) {
  return text.substr(0, text.find('\n'));
}

// What an mpirun must be to start this library's ranks.
bool starts(const MpiRelease& launcher, const MpiRelease& library) {
  // Open MPI 5 starts its ranks through PRRTE 3.
  if (launcher.family == "PRRTE") return library.family == "Open MPI" && library.major >= 5;
  return launcher.family == library.family && launcher.major == library.major &&
         launcher.minor == library.minor;
}

Finding check_program(const MpiFacts& facts, const MpiRelease& library) {
  const std::string cure =
      fmt::format("put the mpirun of {} first on PATH, or build Frameshard with the other", facts.library);
  if (!facts.program_ended) {
    return change(subject, fmt::format("{} --version did not end in 10 s", facts.program),
                  "look at PATH, and at the filesystem that it lies on", Scope::host);
  }
  const auto launcher = parse_mpi_release(facts.program_text);
  if (!launcher) {
    return note(subject,
                fmt::format("{} --version prints nothing known: {}", facts.program,
                            facts.program_text.empty() ? "(empty)" : first_line(facts.program_text)),
                Scope::host);
  }
  const std::string both = fmt::format("{} is of {}, this program is linked with {}", facts.program,
                                       launcher->text(), facts.library);
  if (!starts(*launcher, library)) return change(subject, both, cure, Scope::host);
  if (launcher->family == library.family && launcher->patch != library.patch) {
    return note(subject, both + ": the same series, which should do", Scope::host);
  }
  return ok(subject, fmt::format("{}, as {}", facts.library, facts.program), Scope::host);
}

}  // namespace

std::string MpiRelease::text() const {
  return fmt::format("{} {}.{}.{}", family, major, minor, patch);
}

std::optional<MpiRelease> parse_mpi_release(const std::string& text) {
  struct Form {
    const char *word, *family;
  };
  // The version is the first number after the word.
  constexpr std::array<Form, 7> forms{{{"(Open MPI)", "Open MPI"},
                                       {"(OpenRTE)", "Open MPI"},
                                       {"Open MPI v", "Open MPI"},
                                       {"(PRRTE)", "PRRTE"},
                                       {"Intel(R) MPI Library", "Intel MPI"},
                                       {"HYDRA build details", "MPICH"},
                                       {"MPICH Version", "MPICH"}}};
  for (const Form& form : forms) {
    const size_t at = text.find(form.word);
    if (at == std::string::npos) continue;
    const size_t digit = text.find_first_of("0123456789", at);
    MpiRelease release{.family = form.family};
    if (digit == std::string::npos || std::sscanf(text.c_str() + digit, "%5d.%5d.%5d", &release.major,
                                                  &release.minor, &release.patch) < 2) {
      return std::nullopt;
    }
    return release;
  }
  return std::nullopt;
}

MpiFacts mpi_facts(int world) {
  MpiFacts facts;
  facts.library = mpi_version(), facts.environment = launcher_environment(), facts.world = world;
  facts.started_by_orte = std::getenv("OMPI_MCA_orte_hnp_uri") != nullptr;
  return facts;
}

void find_mpirun(MpiFacts& facts) {
  for (const char* name : {"mpirun", "prterun"}) {
    const auto path = find_on_path(name);
    if (!path) continue;
    facts.program = path->string();
    try {
      const ProgramOutput output = output_of({facts.program, "--version"}, version_seconds);
      facts.program_ended = output.ended, facts.program_text = output.text;
    } catch (const Error& error) {
      facts.program_text = error.what();
    }
    return;
  }
}

Findings check_mpi_programs(const MpiFacts& facts) {
  const auto library = parse_mpi_release(facts.library);
  if (!library) return {note(subject, "linked with an unknown MPI: " + facts.library, Scope::host)};
  Findings findings;
  if (facts.program.empty()) {
    findings.push_back(note(subject,
                            fmt::format("{}; no mpirun on PATH, which starting several ranks here without "
                                        "srun needs (Debian: openmpi-bin)",
                                        facts.library),
                            Scope::host));
  } else {
    findings.push_back(check_program(facts, *library));
  }
  if (facts.started_by_orte && !(library->family == "Open MPI" && library->major <= 4)) {
    findings.push_back(change(subject,
                              fmt::format("an mpirun of Open MPI 4 or older started this process, which is "
                                          "linked with {}",
                                          facts.library),
                              "start it with the mpirun of " + facts.library, Scope::host));
  }
  return findings;
}

Findings check_launcher(const MpiFacts& facts) {
  Findings findings;
  std::vector<std::string> agreeing;
  for (const auto& [variable, value] : facts.environment.world_sizes) {
    if (value == facts.world) {
      agreeing.push_back(variable);
      continue;
    }
    findings.push_back(change(
        "launcher",
        fmt::format("launcher says {}, MPI says {} ({}={}): each process would compute alone", value,
                    facts.world, variable, value),
        fmt::format("start with the mpirun of {}, under Slurm with srun --mpi=pmix; or unset {}, if it is an "
                    "old variable",
                    facts.library, variable),
        Scope::rank));
  }
  if (!findings.empty()) return findings;
  if (!facts.environment.launched) return {ok("launcher", "none, one process", Scope::rank)};
  const std::string by = agreeing.empty() ? "" : fmt::format(", as {} says", fmt::join(agreeing, " and "));
  return {
      ok("launcher", fmt::format("{} rank{}{}", facts.world, facts.world == 1 ? "" : "s", by), Scope::rank)};
}

}  // namespace frameshard
