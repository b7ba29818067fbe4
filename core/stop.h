// A request to stop in order, from Slurm, a launcher or a person.
#pragma once

namespace frameshard {

/// From now on SIGUSR1 asks this process to stop instead of ending it. Launchers send it to all ranks at any
/// moment; one that comes early counts when the work begins. SIGTERM and ^C (SIGINT) still end the process.
///
/// Call it before any other thread is there: all threads block these signals, and one that does nothing else
/// takes them. oneDNN's products use the stack pointer for data, so that a handler which runs on a computing
/// thread's stack overwrites memory (oneDNN as in LibTorch 2.11).
void stop_on_sigusr1();
/// From now on the first SIGTERM or ^C asks this process to stop, and the next one ends it. For when there is
/// work that can stop in order. A ^C is answered with a line on stderr, since a step may take a while. After
/// stop_on_sigusr1().
void stop_on_sigterm_and_sigint();
/// True once one of them has come.
bool stop_requested();
/// Whether that was ^C. A shell stops a loop over commands when one of them was ended by the signal itself,
/// and not when it ends with a code of its own.
bool interrupted();
/// Ends this process by `signal`, as if it had never been taken.
[[noreturn]] void end_by_signal(int signal);

}  // namespace frameshard
