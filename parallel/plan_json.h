// The plan as JSON, for scripts.
#pragma once

#include "core/io/json_file.h"
#include "parallel/plan.h"

namespace frameshard {

/// The numbers of describe() and describe_choices(); sizes in bytes, times in seconds. `bytes_a_rank`: what
/// each rank of a replica sends while one video of the largest request is denoised, exactly as metrics.jsonl
/// counts it.
Json plan_json(const RunPlan& plan, const MeshChoices& choices, const ModelFacts& model);

}  // namespace frameshard
