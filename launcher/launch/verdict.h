// What a launcher says of a job that has ended, and with which code.
#pragma once

#include <optional>
#include <string>

namespace frameshard {

struct JobEnd {
  std::optional<int> status{};  ///< mpirun's, as wait() gives it; none: it was not started
  int stop_signal = 0;          ///< that the launcher was sent
  bool several_nodes = false;
  bool ranks_met = false;
  bool reported = false;      ///< a rank of this node has said why it failed
  std::string last_line{};    ///< of ranks that have stopped in order
  std::string not_met{};      ///< what to say where the ranks have not met
  std::string first_ended{};  ///< "rank 3 (host b)", of the ranks that have ended; empty: not known
  std::optional<std::string> lost_daemon{};  ///< that the daemon of a node was lost
};

struct JobVerdict {
  int code = 0;
  std::string line{};  ///< empty: the ranks have said all, or there is nothing to say
};

JobVerdict verdict_on(const JobEnd& end);

}  // namespace frameshard
