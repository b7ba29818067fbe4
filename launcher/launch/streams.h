// What a rank takes over from its launcher before anything else: its directory and where its output goes.
#pragma once

namespace frameshard {

/// Acts on FRAMESHARD_DIRECTORY, and on FRAMESHARD_LOG_DIR with FRAMESHARD_REDIRECTS and FRAMESHARD_TEE,
/// where `frameshard launch` set them: <log dir>/<rank>/stdout.log and stderr.log. A rank also signs in
/// (rank_watch.h), and dies with the daemon that started it. Does nothing elsewhere. Throws 74 and 66 for
/// directories that are not there.
void become_launched_rank();

}  // namespace frameshard
