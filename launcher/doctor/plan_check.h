// Is a job's plan even, and does it fit into the memory?
#pragma once

#include <cstdint>

#include "launcher/doctor/finding.h"

namespace frameshard {

/// Plain numbers of a plan and of the machine it is for.
struct PlanFacts {
  int dp = 1, cp = 1, ulysses = 1;
  int64_t tokens = 0, largest_tokens = 0;  ///< of the sequence, and of the rank with most
  int64_t heads = 0, largest_heads = 0;    ///< of the model, and of the rank with most
  int64_t videos = 1;
  int64_t needed_bytes = 0, free_bytes = 0;  ///< of a rank
  int fitting_cp = 0;                        ///< the smallest cp_size that fits; 0: none does
  bool bfloat16_fits = false;                ///< with model.dtype=bfloat16 in place of a wider type
};

/// Unevenness above a tenth is a change, since all wait for the rank with most.
Findings check_balance(const PlanFacts& facts);
Finding check_plan_memory(const PlanFacts& facts);

}  // namespace frameshard
