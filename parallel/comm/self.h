// A group of one.
#pragma once

#include "parallel/comm/communicator.h"

namespace frameshard {

CommPtr make_self_communicator(const std::string& name = "self");

}  // namespace frameshard
