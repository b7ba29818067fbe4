#include <charconv>
#include <cstdlib>
#include <filesystem>

#include <unistd.h>

#include "core/config.h"
#include "core/cuda_module.h"
#include "core/error.h"
#include "core/host.h"
#include "launcher/commands/commands.h"
#include "launcher/job.h"

namespace frameshard {
namespace {

int rank_count(const std::string& wanted) {
  if (wanted == "auto") return local_device_count();
  if (wanted == "cpu") return allowed_cores();
  if (wanted == "gpu") {
    if (!cuda()) fail(ExitCode::config, "--nproc-per-node gpu, but {}", why_no_cuda());
    return cuda()->device_count();
  }
  int count = 0;
  const auto [end, error] = std::from_chars(wanted.data(), wanted.data() + wanted.size(), count);
  if (error != std::errc{} || end != wanted.data() + wanted.size() || count < 1 || count > 65536) {
    fail(ExitCode::usage, "--nproc-per-node must be auto, gpu, cpu or a number of ranks, got \"{}\"", wanted);
  }
  return count;
}

std::string find_program(const std::string& name) {
  const char* path = std::getenv("PATH");
  for (std::string rest = path ? path : ""; !rest.empty();) {
    const size_t colon = rest.find(':');
    const auto candidate = std::filesystem::path(rest.substr(0, colon)) / name;
    if (access(candidate.c_str(), X_OK) == 0) return candidate.string();
    rest = colon == std::string::npos ? "" : rest.substr(colon + 1);
  }
  fail(ExitCode::missing_file, "{} is not on PATH; install Open MPI (Debian: openmpi-bin)", name);
}

// Errors that do not depend on the ranks are found here, once, before anything is started.
void validate(const std::vector<std::string>& program, int ranks) {
  const Job job = open_job(program[1], {program.begin() + 2, program.end()});
  const RankPlace place{
      .local_size = ranks, .under_mpi = true, .cores = std::max(1, allowed_cores() / ranks)};
  const bool own_gpu = cuda() && ranks <= cuda()->device_count();
  const PlanMachine machine = describe_machine(job, place, ranks, ranks, own_gpu);
  make_plan(job.config, model_facts(job, machine.device), machine);
  prepare_outputs(job);
}

}  // namespace

int launch_command(const std::string& wanted, const std::vector<std::string>& program) {
  if (program.size() < 2 || program[0] != "run") {
    fail(ExitCode::usage,
         "launch needs a command to start: frameshard launch --nproc-per-node 2 run CONFIG [key=value ...]");
  }
  const int ranks = rank_count(wanted);
  validate(program, ranks);

  // --oversubscribe: a rank a core is usual here, and Open MPI counts physical cores; --bind-to none: threads
  // are set by the plan, and Open MPI would bind two ranks to one core each and give them no second thread.
  std::vector<std::string> command{
      find_program("mpirun"), "-n", std::to_string(ranks), "--oversubscribe", "--bind-to", "none", "--quiet"};
  if (geteuid() == 0) command.push_back("--allow-run-as-root");
  command.push_back(std::filesystem::read_symlink("/proc/self/exe").string());
  command.insert(command.end(), program.begin(), program.end());
  std::vector<char*> arguments;
  for (std::string& argument : command) arguments.push_back(argument.data());
  arguments.push_back(nullptr);
  // mpirun takes this process's place: signals and the exit code need no passing on.
  execv(arguments[0], arguments.data());
  fail(ExitCode::unavailable, "{} could not be started: {}", command[0], std::strerror(errno));
}

}  // namespace frameshard
