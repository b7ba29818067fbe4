// A request to stop in order, from Slurm, a launcher or a person.
#pragma once

namespace frameshard {

/// From now on SIGUSR1 asks this process to stop instead of ending it. Launchers send it to all ranks at any
/// moment; one that comes early counts when the work begins.
void stop_on_sigusr1();
/// The same for SIGTERM and ^C (SIGINT); after one of them, the next one ends the process. For when there is
/// work that can stop in order: until then the first one ends the process at once. A ^C is answered with a
/// line on stderr, since a step may take a while.
void stop_on_sigterm_and_sigint();
/// True once one of them has come.
bool stop_requested();
/// Whether that was ^C. A shell stops a loop over commands when one of them was ended by the signal itself,
/// and not when it ends with a code of its own.
bool interrupted();

}  // namespace frameshard
