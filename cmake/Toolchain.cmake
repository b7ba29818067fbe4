# Compiler, linker and cache settings that every target shares.
find_program(CCACHE ccache)
if(CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # Without this sloppiness ccache never hits where a precompiled header is in use; with the base directory clones share
  # what they compile.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env
    CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
    CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} CCACHE_NOHASHDIR=1 ${CCACHE})
endif()
find_program(MOLD mold)
if(MOLD AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  add_link_options(-fuse-ld=mold)
endif()

# Designated initializers leave out what has its usual value.
add_compile_options(-Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  add_compile_options(-fpch-preprocess)
  # It takes std::string's own copies for overflows (GCC bug 105651).
  if(CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
    add_compile_options(-Wno-restrict -Wno-stringop-overflow -Wno-array-bounds)
  endif()
endif()
if(FRAMESHARD_SANITIZE)
  add_compile_options(-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-sanitize=vptr -fno-omit-frame-pointer)
  add_link_options(-fsanitize=address,undefined)
endif()

# One layer of the engine: a shared library, so that the CUDA module loaded at run time and the program use one copy.
function(frameshard_layer name)
  add_library(frameshard_${name} SHARED ${ARGN})
  set_target_properties(frameshard_${name} PROPERTIES DEFINE_SYMBOL "")
  target_include_directories(frameshard_${name} PUBLIC ${CMAKE_SOURCE_DIR})
endfunction()
