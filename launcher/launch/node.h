// The other nodes while the ranks run: each starts MPI's daemon when node 0 asks for it, and ends what it
// started when node 0 says so or is lost.
#pragma once

#include "launcher/launch/open_mpi.h"
#include "launcher/launch/rendezvous.h"

namespace frameshard {

/// Serves node 0 until the job ends; returns the job's exit code, or 69 where node 0 was lost.
int serve_master(const LaunchOptions& options, const OpenMpi& mpi, Link& master, SignalPipe& signals);

}  // namespace frameshard
