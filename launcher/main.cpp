// The command line. Each command is a page in commands/.
#include <csignal>
#include <cstdio>

#include <CLI/CLI.hpp>
#include <c10/util/Logging.h>
#include <fcntl.h>
#include <unistd.h>

#include "core/cuda_module.h"
#include "core/host.h"
#include "core/log.h"
#include "core/phase.h"
#include "core/stop.h"
#include "core/version.h"
#include "launcher/commands/commands.h"
#include "launcher/commands/output.h"
#include "launcher/failure.h"
#include "launcher/flags.h"
#include "launcher/launch/agent.h"
#include "launcher/launch/streams.h"
#include "parallel/comm/mpi_session.h"
#include "parallel/hardware.h"

namespace {

using namespace frameshard;

std::string versions() {
  return fmt::format("frameshard {}\nLibTorch {}\n{}\n{}", engine_version(), libtorch_version(),
                     mpi_version(),
                     cuda() ? cuda()->versions() : "CUDA and NCCL not in use: " + why_no_cuda());
}

struct Arguments {
  std::string config;
  std::vector<std::string> overrides;
  RunOptions run;
  TrainOptions train;
  bool train_keys = false;
  LaunchOptions launch;
  PlanOptions plan;
  DoctorOptions doctor;
  BenchOptions bench;
};

constexpr const char* overrides_help = "key=value, over what the file says; `frameshard keys` lists the keys";

void add_run(CLI::App& app, Arguments& arguments, int& code) {
  CLI::App* run =
      app.add_subcommand("run", "Make the videos of a YAML file; under mpirun or srun as one of its ranks");
  add_run_options(*run, arguments.run);
  run->callback([&] { code = run_command(arguments.run); });
  run->footer("mpirun -n 4 frameshard run configs/quickstart.yaml request.seed=7");
}

void add_launch(CLI::App& app, Arguments& arguments, int& code) {
  CLI::App* launch = app.add_subcommand("launch", "Start the ranks of a command, on this node or on several");
  add_launch_options(*launch, arguments.launch);
  launch->prefix_command();
  launch->callback([&, launch] {
    arguments.launch.program = launch->remaining();
    code = launch_command(arguments.launch);
  });
  launch->footer(
      "It starts run, train, bench or doctor, with that command's own options:\n"
      "frameshard launch --nproc-per-node 4 run configs/quickstart.yaml request.seed=7\n"
      "frameshard launch --nnodes 2 --node-rank 0 --master-addr 10.0.0.1 run configs/quickstart.yaml\n"
      "Each flag also has torchrun's other spelling (--nproc_per_node) and variable (PET_NPROC_PER_NODE).");
}

void add_doctor(CLI::App& app, Arguments& arguments, int& code) {
  CLI::App* doctor = app.add_subcommand(
      "doctor", "Say what of MPI, GPUs, network, limits and versions is wrong, and the cure");
  doctor->add_option("config", arguments.config, "YAML file: also say whether its plan is even and fits");
  doctor->add_option("overrides", arguments.overrides, overrides_help);
  doctor->add_option("--seconds", arguments.doctor.seconds, "to measure the exchange between ranks in")
      ->check(real_range(0.1, 600))
      ->capture_default_str();
  doctor->add_option("--timeout", arguments.doctor.timeout, "seconds to wait for other ranks at one place")
      ->check(real_range(1, 3600))
      ->capture_default_str();
  doctor->callback([&] { code = doctor_command(arguments.config, arguments.overrides, arguments.doctor); });
  doctor->footer("mpirun -n 4 frameshard doctor configs/quickstart.yaml");
}

void add_bench(CLI::App& app, Arguments& arguments, int& code) {
  CLI::App* bench =
      app.add_subcommand("bench", "Measure how a denoising step scales over ranks, and print tables");
  add_bench_options(*bench, arguments.bench);
  bench->callback([&] { code = bench_command(arguments.bench); });
  bench->footer("frameshard launch --nproc-per-node 4 bench --model wan-1.3b --json bench.json");
}

void add_plan(CLI::App& app, Arguments& arguments, int& code) {
  PlanOptions& options = arguments.plan;
  CLI::App* plan = app.add_subcommand("plan", "Print how a job would be split, without starting it");
  plan->add_option("config", arguments.config, "YAML file")->required();
  plan->add_option("overrides", arguments.overrides, overrides_help);
  plan->add_option("--world", options.world,
                   "ranks; left out: those of the Slurm job around it, else of run alone here")
      ->check(CLI::Range(1, 65536));
  plan->add_option("--nodes", options.nodes,
                   "nodes that share the ranks; left out: those of the Slurm job, "
                   "else 1")
      ->check(CLI::Range(1, 65536));
  plan->add_option("--ranks-per-node", options.ranks_per_node, "instead of --nodes")
      ->check(CLI::Range(1, 65536));
  plan->add_option("--device", options.device, "auto (what is here), " + device_names())
      ->capture_default_str();
  plan->add_option("--interconnect", options.interconnect,
                   "between nodes: " + interconnect_names() +
                       "; left out: ndr400 for GPUs, ethernet10 for "
                       "CPUs");
  plan->add_flag("--all", options.all, "print every mesh, not the best 12 alone");
  plan->add_flag("--json", options.json, "print the same as JSON, with every mesh and each rank's bytes");
  plan->callback([&] { code = plan_command(arguments.config, arguments.overrides, arguments.plan); });
  plan->footer(
      "frameshard plan configs/quickstart.yaml --world 64 --nodes 8 --device h200 --interconnect ndr400");
}

void add_train(CLI::App& app, Arguments& arguments, int& code) {
  CLI::App* train =
      app.add_subcommand("train", "Train a model, or low-rank changes of one, on clips with captions");
  add_train_options(*train, arguments.train);
  train->callback([&] { code = train_command(arguments.train); });
  train->footer("mpirun -n 2 frameshard train configs/train-lora.yaml train.max_epochs=4");
}

void add_commands(CLI::App& app, Arguments& arguments, int& code) {
  add_run(app, arguments, code);
  add_train(app, arguments, code);
  add_launch(app, arguments, code);

  add_plan(app, arguments, code);
  add_doctor(app, arguments, code);
  add_bench(app, arguments, code);
  app.add_subcommand("devices", "List the devices of this machine")->callback([&] {
    code = devices_command();
  });
  CLI::App* keys = app.add_subcommand("keys", "List every configuration key");
  keys->add_flag("--train", arguments.train_keys, "those of train, not of run");
  keys->callback([&] { code = keys_command(arguments.train_keys); });
}

int report(const Failure& failure) {
  std::fflush(stdout);
  print_failure(fmt::format("FAILED at {}: {}", current_phase(), failure.message));
  return int(failure.code);
}

// Stopped in order by ^C, a process still ends by that signal: a shell's loop ends then too. Ranks of a
// launcher end with the code.
int ended(int code) {
  if (code == int(ExitCode::stopped) && interrupted() && !launcher_environment().launched) {
    std::fflush(nullptr);
    end_by_signal(SIGINT);
  }
  return code;
}

// A started process may lack stdin, stdout or stderr; a file of ours must not get their number and be printed
// into.
void open_standard_streams() {
  for (int descriptor = 0; descriptor < 3; ++descriptor) {
    if (fcntl(descriptor, F_GETFD) < 0) open("/dev/null", O_RDWR);
  }
}

// CLI11 says only that a command is missing when the first word is none.
std::string unknown_command(const CLI::App& app, int argc, char** argv) {
  if (argc < 2) return "";
  const std::string word = argv[1];
  const auto known =
      app.get_subcommands([&](const CLI::App* command) { return command->get_name() == word; });
  return known.empty() ? word : "";
}

int refuse_command_line(const CLI::App& app, const CLI::ParseError& error, int argc, char** argv) {
  const bool no_command = dynamic_cast<const CLI::RequiredError*>(&error) && app.get_subcommands().empty();
  const std::string word = no_command ? unknown_command(app, argc, argv) : "";
  if (!word.empty()) {
    log::print(fmt::format("\"{}\" is no command; frameshard --help lists them\n", word));
    return int(ExitCode::usage);
  }
  if (dynamic_cast<const CLI::ExtrasError*>(&error)) {
    const char* more = app.got_subcommand("launch") ? "; give launch its command without -- before it" : "";
    log::print(fmt::format("{}{}\nRun with --help for more information.\n", usage_message(app, error), more));
    return int(ExitCode::usage);
  }
  return app.exit(error) == 0 ? 0 : int(ExitCode::usage);
}

}  // namespace

int main(int argc, char** argv) {
  open_standard_streams();
  std::signal(SIGPIPE, SIG_IGN);  // a closed pipe is a failed write, not a killed rank
  std::signal(SIGXFSZ, SIG_IGN);  // and so is a file beyond `ulimit -f`
  if (std::string_view(argv[0]).ends_with(agent_name)) return run_agent({argv + 1, argv + argc});
  set_phase("start");
  keep_freed_memory();
  FLAGS_caffe2_use_fatal_for_enforce = false;  // exhausted memory is an error of ours (71), not an abort
  CLI::App app{"Frameshard splits one video diffusion job over many devices.", "frameshard"};
  app.set_version_flag("--version", versions);
  app.require_subcommand(1);
  Arguments arguments;
  int code = 0;
  add_commands(app, arguments, code);
  try {
    become_launched_rank();
    app.parse(argc, argv);
    if (!app.got_subcommand("run") && !app.got_subcommand("train"))
      check_output();  // what the others print is all that they make
    return ended(code);
  } catch (const CLI::ParseError& error) {
    return refuse_command_line(app, error, argc, argv);
  } catch (const RankFailure& failure) {
    print_failure(failure.what());
    return ended(int(failure.code()));
  } catch (...) {
    return ended(report(current_failure()));
  }
}
