// AtomicFile: complete under the final name or not there, whatever ends the writer.
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
#include "core/io/atomic_file.h"
#include "tests/support/catch.h"
#include "tests/support/scratch.h"

namespace frameshard {
namespace {

namespace fs = std::filesystem;
using test::contents;
using test::Scratch;

void put(const fs::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

std::string host() {
  char name[256] = {};
  gethostname(name, sizeof name - 1);
  return name;
}

/// A pid that no longer runs: that of a child that was waited for.
pid_t dead_pid() {
  const pid_t pid = fork();
  if (pid == 0) _exit(0);
  waitpid(pid, nullptr, 0);
  return pid;
}

/// What an action failed with.
struct Failure {
  ExitCode code = ExitCode::ok;
  std::string message;
};

Failure failure_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return {error.code(), error.what()};
  }
  return {};
}

/// Runs an action in a forked child, for what would harm this process, and brings its failure back.
Failure failure_in_child(const std::function<void()>& action) {
  int ends[2];
  require(pipe(ends) == 0, "pipe failed");
  const pid_t child = fork();
  if (child == 0) {
    close(ends[0]);
    const Failure failure = failure_of(action);
    const ssize_t sent = write(ends[1], failure.message.data(), failure.message.size());
    _exit(sent == static_cast<ssize_t>(failure.message.size()) ? static_cast<int>(failure.code) : 255);
  }
  close(ends[1]);
  std::string message;
  char buffer[512];
  for (ssize_t got = 0; (got = read(ends[0], buffer, sizeof buffer)) > 0;) message.append(buffer, got);
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  require(WIFEXITED(status), "the child was ended by a signal");
  return {static_cast<ExitCode>(WEXITSTATUS(status)), message};
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

#if __has_include(<catch2/catch_all.hpp>)
/// The name that Catch2 3 has for it; its Contains is about containers.
const auto Contains = [](const std::string& part) { return Catch::Matchers::ContainsSubstring(part); };
#else
using Catch::Matchers::Contains;
#endif

}  // namespace

TEST_CASE("an atomic file appears at its commit and not before", "[atomic_file]") {
  const Scratch scratch;
  AtomicFile file(scratch / "out.bin");
  const std::string temporary = file.temporary().filename().string();
  CHECK(temporary.rfind(".out.bin.tmp-" + host() + "-" + std::to_string(getpid()) + "-", 0) == 0);
  CHECK(file.temporary().parent_path() == scratch.path());
  file.write("text ");
  file.write(std::string_view("with\0nul", 8));
  const std::byte bytes[] = {std::byte{0xff}, std::byte{0x00}};
  file.write(bytes);
  CHECK(scratch.names() == std::set<std::string>{temporary});
  file.commit();
  CHECK(file.fd() == -1);
  CHECK(scratch.names() == std::set<std::string>{"out.bin"});
  CHECK(contents(scratch / "out.bin") == std::string("text with\0nul\xff\0", 15));
}

TEST_CASE("a file name without a directory goes to the current one", "[atomic_file]") {
  const Scratch scratch;
  const fs::path before = fs::current_path();
  fs::current_path(scratch.path());
  const Failure failure = failure_of([] { write_file_atomically("here.txt", "x"); });
  fs::current_path(before);
  CHECK(failure.message == "");
  CHECK(contents(scratch / "here.txt") == "x");
}

TEST_CASE("new files get the permissions that the umask leaves", "[atomic_file]") {
  const Scratch scratch;
  const mode_t before = umask(027);
  write_file_atomically(scratch / "out.txt", "x");
  umask(before);
  CHECK((fs::status(scratch / "out.txt").permissions() & fs::perms::mask) == static_cast<fs::perms>(0640));
}

TEST_CASE("an atomic file that is not committed leaves nothing", "[atomic_file]") {
  const Scratch scratch;
  put(scratch / "out.txt", "older");
  {
    AtomicFile file(scratch / "out.txt");
    file.write("newer");
  }
  CHECK(scratch.names() == std::set<std::string>{"out.txt"});
  CHECK(contents(scratch / "out.txt") == "older");
}

TEST_CASE("write_file_atomically replaces a longer file", "[atomic_file]") {
  const Scratch scratch;
  put(scratch / "out.txt", "a longer older file");
  write_file_atomically(scratch / "out.txt", "new");
  CHECK(contents(scratch / "out.txt") == "new");
  write_file_atomically(scratch / "out.txt", "");
  CHECK(contents(scratch / "out.txt") == "");
  CHECK(scratch.names().size() == 1);
}

TEST_CASE("two atomic files of one name do not touch each other", "[atomic_file]") {
  const Scratch scratch;
  AtomicFile first(scratch / "out.txt");
  AtomicFile second(scratch / "out.txt");
  CHECK(first.temporary() != second.temporary());
  first.write("first");
  second.write("second");
  first.commit();
  CHECK(contents(scratch / "out.txt") == "first");
  second.commit();
  CHECK(contents(scratch / "out.txt") == "second");
  CHECK(scratch.names().size() == 1);
}

TEST_CASE("a name that an earlier owner of this pid left is passed over", "[atomic_file]") {
  const Scratch scratch;
  std::string taken;
  {
    const AtomicFile file(scratch / "out.txt");
    taken = file.temporary().string();
  }
  // The counter only rises, so the next names are known.
  const auto dash = taken.rfind('-');
  const std::string next = taken.substr(0, dash + 1) + std::to_string(std::stoi(taken.substr(dash + 1)) + 1);
  put(next, "left over");
  AtomicFile file(scratch / "out.txt");
  CHECK(file.temporary() != fs::path(next));
  CHECK(contents(next) == "left over");
}

TEST_CASE("use after the commit is a defect of ours", "[atomic_file]") {
  const Scratch scratch;
  AtomicFile file(scratch / "out.txt");
  file.commit();
  const Failure write = failure_of([&] { file.write("late"); });
  CHECK(write.code == ExitCode::internal);
  CHECK_THAT(write.message, Contains("out.txt") && Contains("after its commit"));
  const Failure commit = failure_of([&] { file.commit(); });
  CHECK(commit.code == ExitCode::internal);
  CHECK_THAT(commit.message, Contains("out.txt") && Contains("committed twice"));
}

TEST_CASE("a forked child does not remove its parent's temporary", "[atomic_file]") {
  const Scratch scratch;
  auto file = std::make_unique<AtomicFile>(scratch / "out.txt");
  const pid_t child = fork();
  if (child == 0) {
    file.reset();
    _exit(0);
  }
  waitpid(child, nullptr, 0);
  file->write("complete");
  file->commit();
  CHECK(contents(scratch / "out.txt") == "complete");
}

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
  const std::string name = ".out.txt.tmp-" + host() + "-" + std::to_string(dead_pid()) + "-0";
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
  const std::string tag = ".tmp-" + host() + "-";
  const std::set<std::string> kept = {
      "out.txt",
      ".out.txt",
      "out.txt" + tag + dead + "-0",                  // no leading dot
      tag + dead + "-0",                              // no final name
      ".out.txt.tmp-other-" + host() + dead + "-0",   // another host
      ".out.txt.tmp-x" + host() + "-" + dead + "-0",  // another host that ends alike
      ".out.txt" + tag + dead,                        // no counter
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

TEST_CASE("unwritable places are I/O errors that name the path", "[atomic_file]") {
  const Scratch scratch;
  put(scratch / "file", "x");
  fs::create_directory(scratch / "folder");
  struct Case {
    fs::path path;
    std::string reason;
  };
  const Case cases[] = {{scratch / "file" / "out.txt", "Not a directory"},
                        {scratch / "absent" / "out.txt", "No such file or directory"},
                        {scratch / "folder", "Is a directory"},
                        {scratch / std::string(250, 'n'), "File name too long"}};
  for (const Case& place : cases) {
    const Failure failure = failure_of([&] { AtomicFile{place.path}; });
    INFO(failure.message);
    CHECK(failure.code == ExitCode::io);
    CHECK_THAT(failure.message, Contains("cannot create " + place.path.string()) && Contains(place.reason));
  }
  CHECK(scratch.names() == std::set<std::string>{"file", "folder"});
}

TEST_CASE("a full disk says how much is left and what to do", "[atomic_file]") {
  const Scratch scratch;
  const int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
  REQUIRE(full >= 0);
  Failure failure;
  {
    AtomicFile file(scratch / "out.txt");
    REQUIRE(dup2(full, file.fd()) == file.fd());
    failure = failure_of([&] { file.write("some bytes"); });
  }
  close(full);
  CHECK(failure.code == ExitCode::io);
  CHECK_THAT(failure.message,
             Contains("cannot write " + (scratch / "out.txt").string()) &&
                 Contains("No space left on device") &&
                 Catch::Matchers::Matches(".*; [0-9]+ bytes are left on that filesystem: free space or set "
                                          "output.directory to another disk"));
  CHECK(scratch.names().empty());
}

TEST_CASE("a write that is cut short is an I/O error and leaves the older file", "[atomic_file]") {
  const Scratch scratch;
  put(scratch / "out.txt", "older");
  const Failure failure = failure_in_child([&] {
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{4096, 4096};
    require(setrlimit(RLIMIT_FSIZE, &limit) == 0, "setrlimit failed");
    write_file_atomically(scratch / "out.txt", std::string(10000, 'x'));
  });
  CHECK(failure.code == ExitCode::io);
  CHECK_THAT(failure.message,
             Contains("cannot write " + (scratch / "out.txt").string()) && Contains("File too large"));
  CHECK(scratch.names() == std::set<std::string>{"out.txt"});
  CHECK(contents(scratch / "out.txt") == "older");
}

TEST_CASE("a final name that became a directory is an I/O error of the rename", "[atomic_file]") {
  const Scratch scratch;
  Failure failure;
  {
    AtomicFile file(scratch / "out");
    file.write("x");
    fs::create_directory(scratch / "out");
    failure = failure_of([&] { file.commit(); });
  }
  CHECK(failure.code == ExitCode::io);
  CHECK_THAT(failure.message,
             Contains("cannot rename " + (scratch / "out").string()) && Contains("Is a directory"));
  CHECK(scratch.names() == std::set<std::string>{"out"});
}

}  // namespace frameshard
