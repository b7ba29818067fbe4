#include <algorithm>
#include <atomic>
#include <chrono>
#include <optional>
#include <thread>

#include "core/cuda_module.h"
#include "core/host.h"
#include "core/log.h"
#include "core/phase.h"
#include "launcher/commands/commands.h"
#include "launcher/commands/output.h"
#include "launcher/doctor/config_check.h"
#include "launcher/doctor/examine.h"
#include "launcher/doctor/exchange_check.h"
#include "launcher/doctor/watchdog.h"
#include "launcher/failure.h"
#include "launcher/settle.h"
#include "parallel/comm/mpi_session.h"
#include "parallel/comm/self.h"
#include "parallel/comm/text.h"

namespace frameshard {
namespace {

// What the watchdog's thread must know to end the command with a whole report.
struct Progress {
  std::atomic<int> rank{-1}, ok{0}, change{0};
};

void print_lines(const std::vector<std::string>& lines) {
  for (const std::string& line : lines) print_output(line + "\n");
}

// One more thing to change; no rank goes on after it.
[[noreturn]] void end_with(const Finding& finding, const Progress& progress) {
  print_lines({line_of(finding), tally_line({.ok = progress.ok, .change = progress.change + 1})});
  abort_all_ranks(int(ExitCode::unavailable));
}

[[noreturn]] void end_late(const std::string& what, double seconds, const Progress& progress) {
  const int rank = progress.rank;
  // All ranks that wait are late at the same time; the first of them ends the others before they say so too.
  std::this_thread::sleep_for(std::chrono::milliseconds(200) * std::clamp(rank, 0, 50));
  const std::string who = rank < 0 ? "a process" : fmt::format("rank {}", rank);
  end_with(change("exchange",
                  fmt::format("{} (host {}) has waited {:g} s in {}: another rank hangs or cannot be reached",
                              who, host_name(), seconds, what),
                  "let the hosts reach each other on all ports (firewall), name the network (mpirun --mca "
                  "btl_tcp_if_include SUBNET, NCCL_SOCKET_IFNAME=INTERFACE); NCCL_DEBUG=INFO says more",
                  Scope::job),
           progress);
}

void append(std::vector<Report>& reports, const Findings& findings, const Report& who) {
  for (const Finding& finding : findings) reports.push_back({finding, who.rank, who.host});
}

// The configuration's findings of all ranks: those of the job once.
void gather_config(std::vector<Report>& reports, const Findings& mine, const Hosts& hosts,
                   Communicator& world) {
  const auto all = gather_findings(world, mine);
  for (int rank = 0; rank < world.size(); ++rank) {
    Findings shown = all[size_t(rank)];
    std::erase_if(shown, [&](const Finding& f) { return rank > 0 && f.scope == Scope::job; });
    append(reports, shown, {{}, rank, hosts.names[size_t(hosts.of_rank[size_t(rank)])]});
  }
}

void note_tally(Progress& progress, const Tally& tally) {
  progress.ok += tally.ok, progress.change += tally.change;
}

// Prints what is found on rank 0; all ranks know the count.
void show(const std::vector<Report>& reports, const Communicator& world, Progress& progress) {
  const auto lines = grouped_lines(reports, world.size());
  note_tally(progress, count_lines(lines));
  if (world.rank() == 0) print_lines(lines);
}

void exchange(Communicator& world, const Hosts& hosts, const RankPlace& place, const ExchangeOptions& options,
              Progress& progress) {
  if (world.size() == 1) {
    const auto alone =
        note("exchange", "one rank alone; frameshard launch --nproc-per-node 4 doctor measures it", Scope::job);
    return show({{alone, 0, hosts.names.front()}}, world, progress);
  }
  ExchangeReport report;
  try {
    report = check_exchange(world, hosts, place, options);
  } catch (...) {
    end_with(change("exchange", current_failure().message, "", Scope::job), progress);
  }
  std::vector<Report> reports;
  append(reports, report.findings, {{}, 0, hosts.names.front()});
  show(reports, world, progress);
  if (world.rank() == 0) print_output(report.tables);
}

// What the ranks do together depends on it. Other configurations are a finding, and no reason to end.
void check_same_arguments(bool config, const DoctorOptions& options, Communicator& world) {
  check_same_text(world,
                  fmt::format("--seconds {:g} --timeout {:g} and {} configuration", options.seconds,
                              options.timeout, config ? "a" : "no"),
                  "the arguments of doctor");
}

}  // namespace

int doctor_command(const std::string& config, const std::vector<std::string>& overrides,
                   const DoctorOptions& options) {
  cuda();  // loaded before the first tensor is made (core/cuda_module.h)
  set_phase("doctor");
  Progress progress;
  Watchdog watchdog(options.timeout,
                    [&](const std::string& what) { end_late(what, options.timeout, progress); });
  const bool launched = launcher_environment().launched;
  std::optional<MpiSession> mpi;
  watchdog.wait_for("the start of MPI");
  if (launched) mpi.emplace();
  const CommPtr alone = launched ? nullptr : make_self_communicator("world");
  Communicator* world = launched ? &mpi->world() : alone.get();
  progress.rank = world->rank();
  log::set_rank(world->rank(), world->size());
  note_ranks_met(*world);

  watchdog.wait_for("the first exchange of texts");
  try {
    all_or_none(*world, [&] { check_same_arguments(!config.empty(), options, *world); });
  } catch (const Ended& ended) {
    return ended.code;
  }
  const Hosts hosts = find_hosts(*world);
  RankPlace place{.under_mpi = launched};
  if (launched) place.local_rank = mpi->local_rank(), place.local_size = mpi->local_size();
  divide_cores(place, *world);
  watchdog.wait_for("the exchange of what the ranks have found");
  auto reports = examine(*world, hosts);
  ConfigReport job;
  if (!config.empty()) {
    watchdog.wait_for("the comparison of the configurations");
    job = check_config(config, overrides, place, *world);
    gather_config(reports, job.findings, hosts, *world);
  }
  show(reports, *world, progress);
  exchange(*world, hosts, place,
           {.device = job.device,
            .backend = job.backend,
            .seconds = options.seconds,
            .waits_for = [&](const std::string& what) { watchdog.wait_for(what); }},
           progress);
  if (world->rank() == 0) print_lines({tally_line({.ok = progress.ok, .change = progress.change})});
  world->barrier();  // nobody ends, and has the others killed, before the report is out
  watchdog.rest();
  return int(progress.change == 0 ? ExitCode::ok : ExitCode::unavailable);
}

}  // namespace frameshard
