// A request to stop in order, from Slurm, a launcher or a person.
#pragma once

namespace frameshard {

/// From now on SIGUSR1 asks this process to stop instead of ending it. Launchers send it to all ranks at any
/// moment; one that comes early counts when the work begins.
void stop_on_sigusr1();
/// The same for SIGTERM; a second one ends the process. For when there is work that can stop in order: until
/// then the first one ends the process at once.
void stop_on_sigterm();
/// True once one of them has come.
bool stop_requested();

}  // namespace frameshard
