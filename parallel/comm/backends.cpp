#include "parallel/comm/backends.h"

#include "core/cuda_module.h"
#include "core/error.h"
#include "parallel/comm/nccl.h"

namespace frameshard {

GroupMaker group_maker(const std::string& backend, const at::Device& device) {
  // One line a backend.
  if (backend == "mpi" || backend == "threads") return [](CommPtr bootstrap) { return bootstrap; };
  if (backend == "nccl") return nccl_group_maker(device);
  fail(ExitCode::config, "infer.backend \"{}\" is unknown; the backends are nccl, mpi, threads", backend);
}

GroupMaker nccl_group_maker(const at::Device& device) {
  auto* make = reinterpret_cast<MakeNccl*>(cuda_symbol("frameshard_make_nccl"));
  if (!make || !device.is_cuda()) {
    fail(ExitCode::config, "infer.backend is nccl, but {}; set infer.backend=mpi",
         make ? "this rank's device is " + device.str() : why_no_cuda());
  }
  return [make, device](CommPtr bootstrap) { return CommPtr(make(bootstrap.release(), device.index())); };
}

std::string resolve_backend(const std::string& wanted, bool under_mpi, const at::Device& device,
                            bool own_gpu) {
  if (wanted == "threads" && under_mpi) {
    fail(ExitCode::config,
         "infer.backend is threads, but mpirun or srun started several processes; leave it at auto");
  }
  if (wanted == "nccl" && !own_gpu) {
    fail(ExitCode::config,
         "infer.backend is nccl, but ranks of this host share a GPU or have none, and NCCL needs one each; "
         "start fewer ranks, or set infer.backend={}",
         under_mpi ? "mpi" : "threads");
  }
  if (wanted != "auto") return wanted;
  return !under_mpi ? "threads" : device.is_cuda() && own_gpu ? "nccl" : "mpi";
}

}  // namespace frameshard
