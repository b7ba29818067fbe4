// Event files byte by byte. That TensorBoard itself reads them is tested in peer/test_event_file.py.
#include <cstring>

#include <signal.h>
#include <sys/resource.h>

#include "core/error.h"
#include "core/host.h"
#include "core/io/event_file.h"
#include "tests/support/catch.h"
#include "tests/support/failure.h"
#include "tests/support/scratch.h"

namespace frameshard {
namespace {

using namespace test;
using namespace std::string_literals;

template <class Unsigned>
Unsigned little_endian(const std::string& bytes, size_t at) {
  Unsigned value = 0;
  for (size_t i = sizeof value; i-- > 0;) value = value << 8 | uint8_t(bytes.at(at + i));
  return value;
}

uint32_t masked_sum(const std::string& bytes) {
  const uint32_t crc = crc32c(bytes);
  return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

// The events of a file, each without its first field: the time, which is the only thing that varies.
std::vector<std::string> events_of(const std::string& file) {
  std::vector<std::string> events;
  for (size_t at = 0; at < file.size();) {
    const auto length = little_endian<uint64_t>(file, at);
    CHECK(little_endian<uint32_t>(file, at + 8) == masked_sum(file.substr(at, 8)));
    const std::string event = file.substr(at + 12, length);
    REQUIRE(event.size() == length);
    CHECK(little_endian<uint32_t>(file, at + 12 + length) == masked_sum(event));
    CHECK(event.substr(0, 1) == "\x09");
    events.push_back(event.substr(9));
    at += length + 16;
  }
  return events;
}

std::string only_file(const Scratch& scratch) {
  const std::set<std::string> names = scratch.names();
  REQUIRE(names.size() == 1);
  CHECK(names.begin()->starts_with("events.out.tfevents."));
  CHECK(names.begin()->ends_with(fmt::format(".{}.{}", host_name(), getpid())));
  return contents(scratch / *names.begin());
}

}  // namespace

TEST_CASE("crc32c: the vectors of RFC 3720", "[event_file]") {
  CHECK(crc32c("") == 0);
  CHECK(crc32c("123456789") == 0xe3069283u);
  CHECK(crc32c(std::string(32, '\0')) == 0x8a9136aau);
  CHECK(crc32c(std::string(32, '\xff')) == 0x62a8ab43u);
}

TEST_CASE("an event file's records: version, numbers, text, picture", "[event_file]") {
  const Scratch scratch;
  EventFile file(scratch.path());
  CHECK(events_of(only_file(scratch)) == std::vector{"\x1a\x0d"
                                                     "brain.Event:2"s});
  file.scalars(300, {{"loss", 0.5}, {"lr", -2}});
  file.text(0, "t", "*hi*");
  file.image(1, "i", "PNG", 200, 100);
  const std::vector<std::string> wanted = {
      "\x1a\x0d"
      "brain.Event:2"s,
      "\x10\xac\x02\x2a\x18"                      // step 300, a summary of 24 bytes
      "\x0a\x0b\x0a\x04loss\x15\x00\x00\x00\x3f"  // its value of 11 bytes
      "\x0a\x09\x0a\x02lr\x15\x00\x00\x00\xc0"s,
      "\x10\x00\x2a\x1f\x0a\x1d\x0a\x01t"  // step 0, a value of 29 bytes
      "\x42\x0e\x08\x07\x12\x04\x12\x02\x08\x01\x42\x04*hi*"
      "\x4a\x08\x0a\x06\x0a\x04text"s,
      "\x10\x01\x2a\x13\x0a\x11\x0a\x01i\x22\x0c"  // step 1, a value of 17 bytes, a picture of 12
      "\x08\x64\x10\xc8\x01\x18\x03\x22\x03PNG"s};
  CHECK(events_of(only_file(scratch)) == wanted);
}

TEST_CASE("a long text's length takes several bytes", "[event_file]") {
  const Scratch scratch;
  EventFile(scratch.path()).text(7, "config", std::string(100000, 'x'));
  const std::vector<std::string> events = events_of(only_file(scratch));
  REQUIRE(events.size() == 2);
  CHECK_THAT(events[1], Contains("\x42\xa0\x8d\x06xxx"));
}

TEST_CASE("an event file makes its directory, and says where it cannot", "[event_file]") {
  const Scratch scratch;
  { const EventFile file(scratch / "a/b"); }
  CHECK(std::filesystem::is_directory(scratch / "a/b"));
  put(scratch / "plain", "a file");
  const Failure failure = failure_of([&] { EventFile(scratch / "plain"); });
  CHECK(failure.code == ExitCode::io);
  CHECK_THAT(failure.message, Contains("cannot create the event file " + (scratch / "plain").string()) &&
                                  Contains("Not a directory"));
}

TEST_CASE("an event that does not fit on the disk leaves the earlier ones readable", "[event_file]") {
  const Scratch scratch;
  const Failure failure = failure_in_child([&] {
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{4096, 4096};
    require(setrlimit(RLIMIT_FSIZE, &limit) == 0, "setrlimit failed");
    EventFile file(scratch.path());
    file.scalars(1, {{"loss", 1}});
    file.text(2, "long", std::string(10000, 'x'));
  });
  CHECK(failure.code == ExitCode::io);
  CHECK_THAT(failure.message, Contains("cannot write to the event file " + scratch.path().string()) &&
                                  Contains("File too large"));
  const std::set<std::string> names = scratch.names();
  REQUIRE(names.size() == 1);
  CHECK(events_of(contents(scratch / *names.begin())).size() == 2);
}

}  // namespace frameshard
