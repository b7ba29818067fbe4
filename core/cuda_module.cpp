#include "core/cuda_module.h"

#include <cstdlib>
#include <filesystem>

#include <dlfcn.h>

#include "core/error.h"

namespace frameshard {
namespace {

struct Module {
  void* handle = nullptr;
  const CudaFunctions* functions = nullptr;
  std::string why_not;
};

// The module lies beside this library.
std::filesystem::path module_path() {
  Dl_info info{};
  dladdr(reinterpret_cast<void*>(&cuda), &info);
  return std::filesystem::path(info.dli_fname).parent_path() / "libframeshard_cuda.so";
}

std::string why_no_device(const CudaFunctions& functions) {
  const int has = functions.driver_cuda(), needs = functions.runtime_cuda();
  if (has / 1000 >= needs / 1000) return "an NVIDIA driver is here, but no visible GPU";
  return fmt::format("the NVIDIA driver runs CUDA up to {}.{} and this build needs {}.{}; update the driver",
                     has / 1000, has % 1000 / 10, needs / 1000, needs % 1000 / 10);
}

Module load() {
  Module module;
  if (gpus_hidden()) {
    module.why_not = "CUDA_VISIBLE_DEVICES hides every GPU";
    return module;
  }
  void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!driver) {
    module.why_not = "no NVIDIA driver (libcuda.so.1) on this machine";
    return module;
  }
  const auto path = module_path();
  if (!std::filesystem::exists(path)) {
    module.why_not = "this build has no CUDA part (" + path.string() + " is missing)";
    return module;
  }
  module.handle = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (!module.handle) {
    module.why_not = std::string("the CUDA part could not be loaded: ") + dlerror();
    return module;
  }
  const auto* functions =
      static_cast<const CudaFunctions*>(dlsym(module.handle, "frameshard_cuda_functions"));
  if (!functions) {
    module.why_not = path.string() + " exports no frameshard_cuda_functions; build it again";
  } else if (functions->device_count() == 0) {
    module.why_not = why_no_device(*functions);
  } else {
    module.functions = functions;
  }
  return module;
}

const Module& module() {
  static const Module instance = load();
  return instance;
}

}  // namespace

const CudaFunctions* cuda() {
  return module().functions;
}
bool gpus_hidden() {
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  return visible && (*visible == '\0' || std::string(visible) == "-1");
}
const std::string& why_no_cuda() {
  return module().why_not;
}
void* cuda_symbol(const char* name) {
  return cuda() ? dlsym(module().handle, name) : nullptr;
}

}  // namespace frameshard
