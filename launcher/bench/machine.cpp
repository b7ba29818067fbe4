#include "launcher/bench/machine.h"

#include <numeric>

#include "core/cuda_module.h"
#include "core/device.h"
#include "core/host.h"
#include "core/log.h"
#include "launcher/bench/memory.h"
#include "launcher/gather_json.h"
#include "parallel/comm/text.h"

namespace frameshard {

PlanMachine describe_bench_machine(const BenchSetup& setup, const RankPlace& place, const at::Device& device,
                                   Communicator& world) {
  PlanMachine machine{.world = world.size(), .ranks_per_node = place.local_size};
  machine.device = device.is_cuda() ? "cuda" : "cpu";
  machine.backend = resolve_backend("auto", place.under_mpi, device, have_own_gpus(place, world));
  machine.threads_per_rank = setup.threads;
  for (const auto& numbers : gather_numbers(world, {double(place.local_size)})) {
    machine.ranks_per_node = std::gcd(machine.ranks_per_node, int(numbers[0]));
  }
  return machine;
}

void check_memory(const BenchSetup& setup, const PlanMachine& machine, const RankPlace& place,
                  const at::Device& device) {
  BenchMemory memory{.model = setup.model,
                     .place = device.is_cuda() ? device.str() : "this host",
                     .sharing = place.local_size,
                     .free_bytes = free_memory(device),
                     .weight_bytes = setup.facts.denoiser_bytes};
  if (device.is_cuda()) {
    const int devices = cuda()->device_count();
    memory.sharing = (place.local_size + devices - 1) / devices;
  }
  std::vector<BenchActivations> meshes;
  for (const BenchCase& what : setup.cases) {
    const int64_t needed = plan_case(setup, what, machine).costs.denoise_bytes;
    meshes.push_back({what.mesh.ranks(), needed - memory.weight_bytes});
  }
  check_bench_memory(memory, meshes);
}

void warn_of_sharing(const PlanMachine& machine, const RankPlace& place) {
  const int units = machine.device == "cuda" ? cuda()->device_count() : allowed_cores();
  const int wanted = place.local_size * (machine.device == "cuda" ? 1 : machine.threads_per_rank);
  if (wanted <= units) return;
  log::warning("{} {} share {} {}: their times say nothing of ranks that have one each", wanted,
               machine.device == "cuda" ? "ranks" : "threads of the ranks", units,
               machine.device == "cuda" ? "GPUs" : "cores");
}

std::vector<BenchDevice> gather_devices(const at::Device& device, Communicator& world) {
  std::string name;
  for (const DeviceInfo& info : list_devices()) {
    if (info.device == device) name = info.name;
  }
  const Json mine = {{"host", host_name()}, {"device", name}, {"cores", allowed_cores()}};
  std::vector<BenchDevice> devices;
  for (const Json& rank : gather_json(world, mine)) {
    devices.push_back({rank["host"], rank["device"], rank["cores"]});
  }
  return devices;
}

}  // namespace frameshard
