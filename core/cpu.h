// What the CPU's instructions can do.
#pragma once

namespace frameshard {

/// Whether it multiplies bfloat16 itself (AVX512-BF16 or AMX). Elsewhere each product of bfloat16 first
/// becomes one of float32, which takes longer than float32 from the start. True where that is not known.
inline bool cpu_multiplies_bfloat16() {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)  // clang 14 does not know amx-bf16
  return __builtin_cpu_supports("avx512bf16") || __builtin_cpu_supports("amx-bf16");
#else
  return true;
#endif
}

}  // namespace frameshard
