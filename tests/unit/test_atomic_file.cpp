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
#include "core/host.h"
#include "core/io/atomic_file.h"
#include "tests/support/catch.h"
#include "tests/support/failure.h"
#include "tests/support/scratch.h"

namespace frameshard {
namespace {

namespace fs = std::filesystem;
using namespace test;

}  // namespace

TEST_CASE("an atomic file appears at its commit and not before", "[atomic_file]") {
  const Scratch scratch;
  AtomicFile file(scratch / "out.bin");
  const std::string temporary = file.temporary().filename().string();
  CHECK(temporary.rfind(".out.bin.tmp-" + host_name() + "-" + std::to_string(getpid()) + "-", 0) == 0);
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

TEST_CASE("a new file never replaces one", "[atomic_file]") {
  const Scratch scratch;
  {
    AtomicFile first(scratch / "out.txt"), second(scratch / "out.txt");
    first.write("first");
    second.write("second");
    CHECK(first.commit_new());
    CHECK_FALSE(second.commit_new());
    CHECK(contents(scratch / "out.txt") == "first");
  }
  CHECK(scratch.names().size() == 1);
  AtomicFile third(scratch / "other.txt");
  third.write("third");
  fs::remove(third.temporary());
  CHECK(failure_of([&] { static_cast<void>(third.commit_new()); }).code == ExitCode::io);
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
