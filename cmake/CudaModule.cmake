# The CUDA part of all layers: one module, loaded at run time where a GPU is (core/cuda_module.h). With our kernels where
# nvcc is found: the wheel's, which `make setup` installs beside LibTorch, or a toolkit's.
# CMake's CUDA language is not used: its check of the compiler wants a whole toolkit, and the wheels are not one.
if(NOT (FRAMESHARD_CUDA STREQUAL "ON" OR (FRAMESHARD_CUDA STREQUAL "AUTO" AND TARGET LibTorch::cuda AND TARGET LibTorch::nccl)))
  message(STATUS "Built without CUDA and NCCL")
  return()
endif()

add_library(frameshard_cuda MODULE core/cuda/device_cuda.cpp core/cuda/nvml.cpp models/common/cuda/graph_module.cpp
  parallel/comm/nccl.cpp parallel/comm/nccl_buffers.cpp)
target_link_libraries(frameshard_cuda PRIVATE frameshard_core frameshard_parallel LibTorch::cuda LibTorch::nccl)

# Turing, Ampere (also Ada) and Hopper; for newer GPUs what the driver compiles when it loads the module.
set(nvcc_flags -std=c++20 -O3 -Xcompiler=-fPIC -ccbin=${CMAKE_CXX_COMPILER}
  -gencode=arch=compute_75,code=sm_75 -gencode=arch=compute_80,code=sm_80
  -gencode=arch=compute_90,code=sm_90 -gencode=arch=compute_90,code=compute_90)

# Sets `why_not` to why nvcc cannot be used, or to nothing: it must be of the CUDA that LibTorch has, and work with this
# machine's C++ compiler.
function(frameshard_check_nvcc nvcc why_not)
  set(${why_not} "" PARENT_SCOPE)
  file(STRINGS ${LibTorch_CUDART_INCLUDE}/cuda_runtime_api.h version REGEX "^#define CUDART_VERSION +[0-9]+")
  string(REGEX REPLACE ".* ([0-9]+)[0-9][0-9][0-9]$" "\\1" wanted "${version}")
  execute_process(COMMAND ${nvcc} --version OUTPUT_VARIABLE version ERROR_QUIET)
  if(NOT version MATCHES "release ${wanted}\\.")
    set(${why_not} "it is not of CUDA ${wanted}, which LibTorch has" PARENT_SCOPE)
    return()
  endif()
  set(folder ${CMAKE_BINARY_DIR}/CMakeFiles/nvcc)
  file(WRITE ${folder}/check.cu "#include <cuda_bf16.h>\n__global__ void zero(__nv_bfloat16* x) { *x = 0.0f; }\n")
  execute_process(COMMAND ${nvcc} ${nvcc_flags} -c check.cu -o check.o WORKING_DIRECTORY ${folder}
                  OUTPUT_VARIABLE said ERROR_VARIABLE said RESULT_VARIABLE failed)
  if(failed)
    string(STRIP "${said}" said)
    set(${why_not} "it does not compile: ${said}" PARENT_SCOPE)
  endif()
endfunction()

get_filename_component(site_packages ${LibTorch_INCLUDE_DIR}/../.. ABSOLUTE)
file(GLOB wheels ${site_packages}/nvidia/cu*/bin)
find_program(FRAMESHARD_NVCC nvcc HINTS ${wheels} ENV CUDA_HOME PATHS /usr/local/cuda PATH_SUFFIXES bin DOC "CUDA's compiler")
if(NOT FRAMESHARD_NVCC)
  message(STATUS "Not found: nvcc: built without CUDA kernels; a GPU uses LibTorch's (install it with 'make setup')")
  return()
endif()
# A second of time, so once for each compiler.
if(NOT FRAMESHARD_NVCC_CHECKED STREQUAL "${FRAMESHARD_NVCC} ${CMAKE_CXX_COMPILER}")
  frameshard_check_nvcc(${FRAMESHARD_NVCC} why_not)
  if(why_not)
    message(STATUS "Not used: ${FRAMESHARD_NVCC}: built without CUDA kernels; a GPU uses LibTorch's: ${why_not}")
    return()
  endif()
  set(FRAMESHARD_NVCC_CHECKED "${FRAMESHARD_NVCC} ${CMAKE_CXX_COMPILER}" CACHE INTERNAL "")
endif()
message(STATUS "CUDA kernels: ${FRAMESHARD_NVCC}")

set(fused ${CMAKE_BINARY_DIR}/generated/fused.cu.o)
add_custom_command(OUTPUT ${fused}
  COMMAND ${CMAKE_COMMAND} -E make_directory ${CMAKE_BINARY_DIR}/generated
  COMMAND ${FRAMESHARD_NVCC} ${nvcc_flags} -I${CMAKE_SOURCE_DIR} -MD -MF ${fused}.d -c ${CMAKE_SOURCE_DIR}/models/common/cuda/fused.cu -o ${fused}
  DEPENDS ${CMAKE_SOURCE_DIR}/models/common/cuda/fused.cu DEPFILE ${fused}.d
  COMMENT "Compiling models/common/cuda/fused.cu" VERBATIM)
target_sources(frameshard_cuda PRIVATE models/common/cuda/fused_module.cpp ${fused})
