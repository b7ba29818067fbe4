#include "parallel/comm/host_group.h"

namespace frameshard {

std::unique_ptr<HostGroup> HostSharing::among(Communicator& all, bool takes_part) const {
  // Even colors take part.
  const int color = 2 * host_ + (takes_part ? 0 : 1);
  auto group = std::make_unique<HostGroup>();
  group->ranks = all.split(color, all.rank(), "host");
  if (!takes_part || group->ranks->size() == 1) return nullptr;
  if (make_group_) group->tensors = make_group_(group->ranks->split(0, group->ranks->rank(), "host"));
  return group;
}

}  // namespace frameshard
