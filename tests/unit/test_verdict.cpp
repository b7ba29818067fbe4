// What `launch` says of a job that has ended, by how mpirun and the ranks have ended.
#include <csignal>

#include "launcher/launch/verdict.h"
#include "tests/support/catch.h"

using namespace frameshard;

namespace {

// As wait() gives them.
int exited(int code) {
  return code << 8;
}

void check(const JobEnd& end, int code, const std::string& words) {
  const JobVerdict verdict = verdict_on(end);
  INFO(verdict.line);
  CHECK(verdict.code == code);
  CHECK(verdict.line.empty() == words.empty());
  CHECK(verdict.line.find(words) != std::string::npos);
}

}  // namespace

TEST_CASE("a job that ends by itself needs no more words") {
  check({.status = exited(0)}, 0, "");
  check({.status = exited(78), .reported = true}, 78, "");
  check({.status = exited(1), .reported = true}, 1, "");
  check({.status = exited(1), .several_nodes = true, .ranks_met = true}, 1, "");
}

TEST_CASE("a rank that was killed is named, with what to do") {
  check({.status = exited(137), .first_ended = "rank 3 (host b)"}, 137,
        "FAILED: rank 3 (host b) was ended by signal 9 (Killed), by a person, a batch system or for lack of "
        "memory "
        "(`dmesg`); what was finished before is kept, and the same command goes on with the rest");
  check({.status = exited(139)}, 139, "FAILED: a rank was ended by signal 11 (Segmentation fault); what was");
}

TEST_CASE("mpirun that was ended is no rank") {
  check({.status = SIGKILL, .first_ended = "rank 0 (host a)"}, 137, "FAILED: mpirun was ended by signal 9");
  check({.status = exited(1)}, 69, "FAILED: mpirun ended with 1, and no rank has said why");
}

TEST_CASE("a job that was told to stop") {
  const std::string said = "FAILED at denoise 3/9: stopped by a signal; the same command goes on from here";
  check({.status = exited(75), .stop_signal = SIGTERM, .last_line = said}, 75, said);
  check({.status = exited(75), .stop_signal = SIGINT, .last_line = said}, 130, said);
  check({.status = exited(75), .stop_signal = SIGTERM}, 75,
        "FAILED: stopped by a signal; the same command goes on");
  check({.status = exited(1), .stop_signal = SIGTERM}, 143,
        "FAILED: ended by Terminated; what was finished before");
  // A rank that crashes meanwhile is what is wrong.
  check({.status = exited(134), .stop_signal = SIGTERM, .first_ended = "rank 1 (host a)"}, 134,
        "FAILED: rank 1 (host a) was ended by signal 6 (Aborted)");
  check({.stop_signal = SIGHUP}, 129, "FAILED: ended by Hangup");
  check({.status = exited(0), .stop_signal = SIGTERM}, 0, "");  // it was done before the signal came
}

TEST_CASE("ranks that have not met, and a lost daemon") {
  check({.status = exited(1), .several_nodes = true, .not_met = "the ranks have not met"}, 69,
        "FAILED: mpirun ended with 1: the ranks have not met");
  check({.status = exited(137),
         .several_nodes = true,
         .ranks_met = true,
         .lost_daemon = "the daemon of node 1"},
        69, "FAILED: the daemon of node 1");
}
