# LibTorch without its CMake package, which fails where no CUDA toolkit is installed.
# Looks in CMAKE_PREFIX_PATH, then in the project's virtual environment, then in the python3 on PATH.
# Targets: LibTorch::cpu (libtorch_cpu and libc10 alone: a quarter of the start-up time and memory of the CUDA build)
# and, where the files are there, LibTorch::cuda and LibTorch::nccl.
set(_pythons ${CMAKE_SOURCE_DIR}/build/venv/bin/python python3)
cmake_path(CONVERT "$ENV{CMAKE_PREFIX_PATH}" TO_CMAKE_PATH_LIST _prefixes)
# The prefix of an unpacked LibTorch, or torch.utils.cmake_prefix_path, which ends in share/cmake.
find_path(LibTorch_INCLUDE_DIR ATen/ATen.h PATH_SUFFIXES include ../../include NO_DEFAULT_PATH
          PATHS ${CMAKE_PREFIX_PATH} ${_prefixes})
foreach(_python IN LISTS _pythons)
  if(NOT LibTorch_INCLUDE_DIR)
    execute_process(COMMAND ${_python} -c "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
                    OUTPUT_VARIABLE _torch OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE _failed)
    if(NOT _failed AND EXISTS ${_torch}/include/ATen/ATen.h)
      set(LibTorch_INCLUDE_DIR ${_torch}/include CACHE PATH "LibTorch headers" FORCE)
    endif()
  endif()
endforeach()
get_filename_component(_root "${LibTorch_INCLUDE_DIR}" DIRECTORY)
get_filename_component(_site "${_root}" DIRECTORY)
find_library(LibTorch_CPU torch_cpu NO_DEFAULT_PATH PATHS ${_root}/lib)
find_library(LibTorch_C10 c10 NO_DEFAULT_PATH PATHS ${_root}/lib)
find_library(LibTorch_CUDA torch_cuda NO_DEFAULT_PATH PATHS ${_root}/lib)
find_library(LibTorch_C10_CUDA c10_cuda NO_DEFAULT_PATH PATHS ${_root}/lib)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(LibTorch REQUIRED_VARS LibTorch_INCLUDE_DIR LibTorch_CPU LibTorch_C10
  REASON_FAILURE_MESSAGE "Run 'make setup', or name your own LibTorch: -DCMAKE_PREFIX_PATH=/where/libtorch/is")

if(LibTorch_FOUND AND NOT TARGET LibTorch::cpu)
  add_library(LibTorch::cpu INTERFACE IMPORTED)
  # -idirafter: LibTorch ships headers of other libraries (fmt 12 among them), which must not hide the installed ones.
  target_compile_options(LibTorch::cpu INTERFACE "SHELL:-idirafter ${LibTorch_INCLUDE_DIR}"
                         "SHELL:-idirafter ${LibTorch_INCLUDE_DIR}/torch/csrc/api/include")
  target_link_libraries(LibTorch::cpu INTERFACE ${LibTorch_CPU} ${LibTorch_C10})
  target_link_options(LibTorch::cpu INTERFACE -Wl,--allow-shlib-undefined)

  find_path(LibTorch_CUDART_INCLUDE cuda_runtime_api.h PATHS ${_site}/nvidia/cu13/include /usr/local/cuda/include NO_DEFAULT_PATH)
  find_library(LibTorch_CUDART NAMES cudart libcudart.so.13 libcudart.so.12 NO_DEFAULT_PATH
               PATHS ${_site}/nvidia/cu13/lib /usr/local/cuda/lib64)
  if(LibTorch_CUDA AND LibTorch_C10_CUDA AND LibTorch_CUDART AND LibTorch_CUDART_INCLUDE)
    add_library(LibTorch::cuda INTERFACE IMPORTED)
    target_include_directories(LibTorch::cuda SYSTEM INTERFACE ${LibTorch_CUDART_INCLUDE})
    # --no-as-needed: libtorch_cuda registers its kernels when loaded, although no symbol of it is called by name.
    target_link_libraries(LibTorch::cuda INTERFACE LibTorch::cpu -Wl,--no-as-needed ${LibTorch_CUDA} ${LibTorch_C10_CUDA}
                          ${LibTorch_CUDART} -Wl,--as-needed)
  endif()
  find_path(LibTorch_NCCL_INCLUDE nccl.h PATHS ${_site}/nvidia/nccl/include)
  find_library(LibTorch_NCCL NAMES nccl libnccl.so.2 PATHS ${_site}/nvidia/nccl/lib)
  if(LibTorch_NCCL_INCLUDE AND LibTorch_NCCL)
    add_library(LibTorch::nccl INTERFACE IMPORTED)
    target_include_directories(LibTorch::nccl SYSTEM INTERFACE ${LibTorch_NCCL_INCLUDE})
    target_link_libraries(LibTorch::nccl INTERFACE ${LibTorch_NCCL})
  endif()
endif()
mark_as_advanced(LibTorch_INCLUDE_DIR LibTorch_CPU LibTorch_C10 LibTorch_CUDA LibTorch_C10_CUDA LibTorch_CUDART
                 LibTorch_CUDART_INCLUDE LibTorch_NCCL LibTorch_NCCL_INCLUDE)
