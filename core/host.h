// What this process may use of its host.
#pragma once

#include <cstdint>
#include <string>

namespace frameshard {

std::string host_name();
std::string cpu_name();
/// Cores that this process may run on (its affinity mask, then a container's CPU quota).
int allowed_cores();
/// Bytes of memory: the machine's, or the container's limit where that is smaller.
int64_t host_memory_bytes();
/// Bytes that can still be allocated without swapping.
int64_t host_available_bytes();
/// The resident set of this process, in bytes.
int64_t resident_bytes();
/// The largest resident set of this process so far, in bytes.
int64_t peak_resident_bytes();
/// Of the resident set, what counts at the other processes where each page of shared memory is divided by the
/// number of processes that have it (the kernel's proportional set size). 0 where the system does not tell.
int64_t resident_elsewhere_bytes();
/// Forgets the peak, so that a phase can be measured by itself. False where the system does not allow it.
bool reset_peak_resident();
/// Since this process was started.
double process_seconds();
/// Bytes in words: "1.5 GiB".
std::string format_bytes(double bytes);

/// Freed blocks of up to 32 MiB stay with this process and are used again, up to 1 GiB of them: fresh memory
/// costs a page fault every 4 KiB, a fifth of a small model's step (docs/speed.md). core/device.h's
/// release_cached_memory gives them back.
void keep_freed_memory();

}  // namespace frameshard
