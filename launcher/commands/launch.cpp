#include <charconv>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/config.h"
#include "core/cuda_module.h"
#include "core/error.h"
#include "core/host.h"
#include "core/log.h"
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

volatile sig_atomic_t caught_signal = 0;
volatile sig_atomic_t mpirun_pid = 0;

// A signal from the terminal reaches mpirun by itself; one sent to this process alone is passed on.
void pass_on(int signal, siginfo_t* info, void*) {
  caught_signal = signal;
  if (info->si_code == SI_USER && mpirun_pid > 0) kill(mpirun_pid, signal);
}

// Runs mpirun and gives its exit code; 128+n where signal n ended the job, of which mpirun itself makes 1.
int supervise(const std::vector<char*>& arguments) {
  const pid_t child = fork();
  if (child < 0)
    fail(ExitCode::unavailable, "{} could not be started: {}", arguments[0], std::strerror(errno));
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGTERM);  // no job outlives its launcher
    execv(arguments[0], arguments.data());
    _exit(int(ExitCode::unavailable));
  }
  mpirun_pid = child;
  struct sigaction action {};
  action.sa_sigaction = pass_on;
  action.sa_flags = SA_SIGINFO;
  for (int signal : {SIGINT, SIGTERM, SIGHUP}) sigaction(signal, &action, nullptr);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (caught_signal != 0) {
    log::print(fmt::format("FAILED: ended by {}\n", strsignal(caught_signal)));
    return 128 + caught_signal;
  }
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
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
  return supervise(arguments);
}

}  // namespace frameshard
