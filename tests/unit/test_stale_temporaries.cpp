// What killed writers leave behind, and what is removed of it.
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <set>
#include <string>

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/error.h"
#include "core/host.h"
#include "core/io/atomic_file.h"
#include "tests/support/catch.h"
#include "tests/support/failure.h"
#include "tests/support/scratch.h"

namespace frameshard {
namespace {

namespace fs = std::filesystem;
using namespace test;

/// A pid that no longer runs: that of a child that was waited for.
pid_t dead_pid() {
  const pid_t pid = fork();
  if (pid == 0) _exit(0);
  waitpid(pid, nullptr, 0);
  return pid;
}

/// A child that has written the beginning of `target` and waits, until it is killed or told to finish.
class HalfWritten {
 public:
  explicit HalfWritten(const fs::path& target) {
    int ready[2];
    int go[2];
    require(pipe(ready) == 0 && pipe(go) == 0, "pipe failed");
    pid_ = fork();
    if (pid_ == 0) run_child(target, ready, go);
    close(ready[1]);
    close(go[0]);
    go_ = go[1];
    char byte = 0;
    const bool started = read(ready[0], &byte, 1) == 1;
    close(ready[0]);
    require(started, "the child did not get to its half");
  }
  ~HalfWritten() {
    if (pid_ > 0) kill_and_wait();
    close(go_);
  }
  HalfWritten(const HalfWritten&) = delete;
  HalfWritten& operator=(const HalfWritten&) = delete;

  pid_t pid() const { return pid_; }
  int kill_and_wait() {
    kill(pid_, SIGKILL);
    return wait();
  }
  int finish_and_wait() {
    require(::write(go_, "g", 1) == 1, "the child does not listen");
    return wait();
  }

 private:
  [[noreturn]] static void run_child(const fs::path& target, const int* ready, const int* go) {
    close(go[1]);
    const Failure failure = failure_of([&] {
      AtomicFile file(target);
      file.write("first half, ");
      char byte = 0;
      require(::write(ready[1], "r", 1) == 1 && ::read(go[0], &byte, 1) == 1, "the parent is gone");
      file.write("second half");
      file.commit();
    });
    _exit(static_cast<int>(failure.code));
  }
  int wait() {
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = -1;
    return status;
  }

  pid_t pid_ = -1;
  int go_ = -1;
};

}  // namespace

TEST_CASE("a writer killed in the middle leaves no file and harms no older one", "[atomic_file]") {
  const Scratch scratch;
  const bool older = GENERATE(false, true);
  if (older) put(scratch / "out.txt", "older");
  HalfWritten writer(scratch / "out.txt");
  CHECK(scratch.names().size() == (older ? 2u : 1u));
  const int status = writer.kill_and_wait();
  REQUIRE(WIFSIGNALED(status));
  CHECK(WTERMSIG(status) == SIGKILL);
  CHECK(fs::exists(scratch / "out.txt") == older);
  CHECK(scratch.names().size() == (older ? 2u : 1u));

  remove_stale_temporaries(scratch.path());
  CHECK(scratch.names() == (older ? std::set<std::string>{"out.txt"} : std::set<std::string>{}));
  CHECK(contents(scratch / "out.txt") == (older ? "older" : ""));
}

TEST_CASE("temporaries of live processes are not stale", "[atomic_file]") {
  const Scratch scratch;
  HalfWritten alive(scratch / "alive.txt");
  AtomicFile own(scratch / "own.txt");
  HalfWritten killed(scratch / "killed.txt");
  killed.kill_and_wait();
  CHECK(scratch.names().size() == 3);
  remove_stale_temporaries(scratch.path());
  CHECK(scratch.names().size() == 2);
  const int status = alive.finish_and_wait();
  REQUIRE(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
  own.write("own");
  own.commit();
  CHECK(scratch.names() == std::set<std::string>{"alive.txt", "own.txt"});
  CHECK(contents(scratch / "alive.txt") == "first half, second half");
}

TEST_CASE("a temporary that a process out of sight holds is not stale", "[atomic_file]") {
  // As in a second container with this host name: the pid is unknown here, only the lock shows the writer.
  const Scratch scratch;
  auto file = std::make_unique<AtomicFile>(scratch / "out.txt");
  const std::string name = ".out.txt.tmp-" + host_name() + "-" + std::to_string(dead_pid()) + "-0";
  fs::rename(file->temporary(), scratch / name);
  remove_stale_temporaries(scratch.path());
  CHECK(scratch.names() == std::set<std::string>{name});
  file.reset();
  remove_stale_temporaries(scratch.path());
  CHECK(scratch.names().empty());
}

TEST_CASE("only names that are surely ours are stale", "[atomic_file]") {
  const Scratch scratch;
  const std::string dead = std::to_string(dead_pid());
  const std::string tag = ".tmp-" + host_name() + "-";
  const std::set<std::string> kept = {
      "out.txt",
      ".out.txt",
      "out.txt" + tag + dead + "-0",                       // no leading dot
      tag + dead + "-0",                                   // no final name
      ".out.txt.tmp-other-" + host_name() + dead + "-0",   // another host
      ".out.txt.tmp-x" + host_name() + "-" + dead + "-0",  // another host that ends alike
      ".out.txt" + tag + dead,                             // no counter
      ".out.txt" + tag + dead + "-0.bak",
      ".out.txt" + tag + "-" + dead + "-0",
      ".out.txt" + tag + "99999999999999999999-0",
      ".out.txt" + tag + "0-0",
      ".out.txt" + tag + std::to_string(getpid()) + "-999999",
  };
  for (const std::string& name : kept) put(scratch / name, "kept");
  fs::create_directory(scratch / (".folder" + tag + dead + "-0"));
  fs::create_symlink("out.txt", scratch / (".link" + tag + dead + "-0"));
  put(scratch / (".out.txt" + tag + dead + "-0"), "stale");
  put(scratch / (".a - b.tmp-c" + tag + dead + "-17"), "stale");

  remove_stale_temporaries(scratch.path());
  std::set<std::string> expected = kept;
  expected.insert(".folder" + tag + dead + "-0");
  expected.insert(".link" + tag + dead + "-0");
  CHECK(scratch.names() == expected);
}

TEST_CASE("stale temporaries of a directory that is not there or none", "[atomic_file]") {
  const Scratch scratch;
  CHECK_NOTHROW(remove_stale_temporaries(scratch / "absent"));
  put(scratch / "file", "x");
  const Failure failure = failure_of([&] { remove_stale_temporaries(scratch / "file"); });
  CHECK(failure.code == ExitCode::io);
  CHECK_THAT(failure.message,
             Contains("cannot list directory " + (scratch / "file").string()) && Contains("Not a directory"));
}

}  // namespace frameshard
