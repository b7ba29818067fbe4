// A container's memory, as control groups of both versions tell it.
#include <filesystem>

#include "core/host.h"
#include "core/limits.h"
#include "tests/support/catch.h"
#include "tests/support/scratch.h"

using namespace frameshard;
using frameshard::test::put;
using frameshard::test::Scratch;

namespace {

void write(const std::filesystem::path& file, const std::string& text) {
  std::filesystem::create_directories(file.parent_path());
  put(file, text + "\n");
}

}  // namespace

TEST_CASE("control groups, version 2: files that can be let go of are free") {
  Scratch scratch;
  const std::filesystem::path group = scratch.path();
  CHECK(container_memory_limit(group) == -1);
  write(group / "memory.max", "max");
  CHECK(container_memory_limit(group) == -1);
  write(group / "memory.max", "1000000");
  write(group / "memory.current", "700000");
  write(group / "memory.stat", "anon 400000\ninactive_file 250000\nactive_file 50000");
  CHECK(container_memory_limit(group) == 1000000);
  CHECK(container_memory_used(group) == 400000);
}

TEST_CASE("control groups, version 1") {
  Scratch scratch;
  const std::filesystem::path group = scratch.path();
  write(group / "memory/memory.limit_in_bytes", "9223372036854771712");
  CHECK(container_memory_limit(group) == -1);
  write(group / "memory/memory.limit_in_bytes", "2000000");
  write(group / "memory/memory.usage_in_bytes", "900000");
  write(group / "memory/memory.stat",
        "inactive_file 1\ntotal_inactive_file 200000\ntotal_active_file 100000");
  CHECK(container_memory_limit(group) == 2000000);
  CHECK(container_memory_used(group) == 600000);
}

TEST_CASE("what is free is no more than what there is") {
  CHECK(host_available_bytes() > 0);
  CHECK(host_available_bytes() <= host_memory_bytes());
}
