// A request to stop in order, from Slurm, a launcher or a person.
#pragma once

namespace frameshard {

/// From now on SIGTERM and SIGUSR1 ask this process to stop instead of ending it; a
/// second SIGTERM ends it.
void stop_on_signals();
/// True once one of them has come.
bool stop_requested();

}  // namespace frameshard
