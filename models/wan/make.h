// Wan checkpoints.
#pragma once

#include "models/checkpoint.h"

namespace frameshard::wan {

/// Opens and checks a folder of class WanPipeline.
CheckpointPtr open_wan(const std::filesystem::path& folder);

}  // namespace frameshard::wan
