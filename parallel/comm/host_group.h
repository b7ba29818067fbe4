// Ranks of one host that do the same at the same time, so that one of them can do it for all.
#pragma once

#include "parallel/comm/backends.h"

namespace frameshard {

struct HostGroup {
  CommPtr ranks;    ///< at least two; moves host data
  CommPtr tensors;  ///< the same ranks; moves tensors of their devices. Null where these are CPUs
};

/// Makes such groups out of others.
class HostSharing {
 public:
  /// `host`: a number that the ranks of a host share, and no others have. `make_group` is empty for CPUs.
  HostSharing(int host, GroupMaker make_group) : host_(host), make_group_(std::move(make_group)) {}

  /// The ranks of `all` on this host that take part. Collective over `all`. Null for a rank that does not,
  /// and for one that is alone.
  std::unique_ptr<HostGroup> among(Communicator& all, bool takes_part) const;

 private:
  int host_;
  GroupMaker make_group_;
};

}  // namespace frameshard
