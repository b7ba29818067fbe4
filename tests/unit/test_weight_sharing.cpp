// Where shared weights lie and who reads which; memory of several processes.
#include <chrono>
#include <csignal>

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/host.h"
#include "models/weight_sharing.h"
#include "tests/support/catch.h"
#include "tests/support/expect_error.h"

using namespace frameshard;
using frameshard::test::caught;

namespace {

struct Model {
  Linear q, other, k, both;
  at::Tensor scale, table;
  WeightList list;

  Model() {
    list.add_layer("q", {4, 3}, q);
    list.add_layer("other", {5, 7}, other);
    list.add_layer("k", {2, 3}, k);
    list.add("scale", {}, scale);
    list.add_float32("table", {1, 6, 2}, table);
    list.stack({&q, &k}, both);
  }
};

int64_t offset_of(const Model& model, const WeightLayout& layout, const at::Tensor& target) {
  for (size_t i = 0; i < model.list.slots().size(); ++i) {
    if (model.list.slots()[i].target == &target) return layout.offsets[i];
  }
  return -1;
}

// What a child process does with the address; its exit code.
int in_a_child(const std::function<int()>& body) {
  const pid_t child = fork();
  if (child == 0) ::_exit(body());
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

TEST_CASE("shared weights are aligned, do not overlap, and parts of a whole follow each other") {
  const Model model;
  for (at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const WeightLayout layout = layout_of(model.list, dtype);
    const auto& slots = model.list.slots();
    REQUIRE(layout.offsets.size() == slots.size());
    std::vector<std::pair<int64_t, int64_t>> ranges;
    for (size_t i = 0; i < slots.size(); ++i) {
      if (slots[i].first_row == 0) CHECK(layout.offsets[i] % 64 == 0);
      ranges.emplace_back(layout.offsets[i], layout.offsets[i] + slots[i].bytes(dtype));
    }
    std::sort(ranges.begin(), ranges.end());
    for (size_t i = 1; i < ranges.size(); ++i) CHECK(ranges[i - 1].second <= ranges[i].first);
    CHECK(ranges.back().second <= layout.bytes);
    CHECK(layout.bytes < model.list.bytes(dtype) + 64 * int64_t(slots.size()));
    const int64_t each = dtype == at::kFloat ? 4 : 2;
    CHECK(offset_of(model, layout, model.k.weight) ==
          offset_of(model, layout, model.q.weight) + 4 * 3 * each);
    CHECK(offset_of(model, layout, model.k.bias) == offset_of(model, layout, model.q.bias) + 4 * each);
  }
}

TEST_CASE("each slot has one reader, and readers have about the same bytes") {
  std::vector<at::Tensor> targets(100);
  WeightList list;
  int64_t largest = 0;
  for (int64_t i = 0; i < 100; ++i) {
    list.add(fmt::format("w{}", i), {1 + i * 37 % 101, 3}, targets[size_t(i)]);
    largest = std::max(largest, list.slots().back().bytes(at::kFloat));
  }
  for (int ranks : {1, 2, 3, 7, 200}) {
    const std::vector<int> readers = deal_slots(list, at::kFloat, ranks);
    REQUIRE(readers.size() == 100);
    CHECK(std::is_sorted(readers.begin(), readers.end()));
    std::vector<int64_t> bytes(size_t(ranks), 0);
    for (size_t i = 0; i < readers.size(); ++i) {
      REQUIRE((readers[i] >= 0 && readers[i] < ranks));
      bytes[size_t(readers[i])] += list.slots()[i].bytes(at::kFloat);
    }
    const int64_t even = list.bytes(at::kFloat) / ranks;
    CHECK(*std::max_element(bytes.begin(), bytes.end()) <= even + largest + 1);
  }
}

TEST_CASE("one slot that is most of the model") {
  at::Tensor small, large, last;
  WeightList list;
  list.add("small", {1}, small);
  list.add("large", {1000}, large);
  list.add("last", {1}, last);
  CHECK(deal_slots(list, at::kFloat, 2)[0] == 0);
  CHECK(deal_slots(list, at::kFloat, 2)[2] == 1);
  CHECK(deal_slots(WeightList(), at::kFloat, 2).empty());
}

TEST_CASE("what another process writes into shared memory is seen here") {
  const auto memory = SharedMemory::create(1 << 20);
  CHECK(memory->data()[1000] == 0);
  CHECK(SharedMemory::in_use());
  const std::string address = memory->address();
  CHECK(in_a_child([&] {
          SharedMemory::open(address)->data()[1000] = 42;
          return 7;
        }) == 7);
  CHECK(memory->data()[1000] == 42);
}

TEST_CASE("protected memory is not written to") {
  const auto memory = SharedMemory::create(1 << 20);
  memory->data()[0] = 1;
  CHECK(in_a_child([&] {
          signal(SIGSEGV, SIG_DFL);
          memory->protect();
          memory->data()[0] = 2;
          return 0;
        }) == 128 + SIGSEGV);
  CHECK(memory->data()[0] == 1);
}

TEST_CASE("an address that is another file, or gone") {
  const auto memory = SharedMemory::create(4096), other = SharedMemory::create(4096);
  const std::string mine = memory->address(), theirs = other->address();
  const std::string mixed = mine.substr(0, mine.find(' ')) + theirs.substr(theirs.find(' '));
  const auto error = caught([&] { SharedMemory::open(mixed); });
  CHECK(error.code == ExitCode::unavailable);
  CHECK(error.has("is something else here"));
  memory->close_address();
  CHECK(caught([&] { SharedMemory::open(mine); }).code == ExitCode::unavailable);
}

TEST_CASE("shared memory that there is not") {
  CHECK(caught([] { SharedMemory::create(int64_t(1) << 62); }).code == ExitCode::out_of_memory);
  CHECK(in_a_child([] {
          const rlimit limit{1 << 20, 1 << 20};
          setrlimit(RLIMIT_FSIZE, &limit);
          const auto error = caught([] { SharedMemory::create(2 << 20); });
          return error.code == ExitCode::out_of_memory && error.has("ulimit -f") ? 7 : 1;
        }) == 7);
}

TEST_CASE("shared pages count in parts") {
  const auto memory = SharedMemory::create(32 << 20);
  std::fill(memory->data(), memory->data() + memory->bytes(), char(1));
  const int64_t alone = resident_elsewhere_bytes();
  int go[2], done[2];
  REQUIRE((pipe(go) == 0 && pipe(done) == 0));
  const pid_t child = fork();
  if (child == 0) {
    volatile char sum = 0;
    for (int64_t i = 0; i < memory->bytes(); i += 4096) sum = char(sum + memory->data()[i]);
    char byte = 0;
    ssize_t moved = write(done[1], &byte, 1);
    moved += read(go[0], &byte, 1);
    ::_exit(int(moved) - 2);
  }
  char byte = 0;
  REQUIRE(read(done[0], &byte, 1) == 1);
  const int64_t divided = resident_elsewhere_bytes();
  REQUIRE(write(go[1], &byte, 1) == 1);
  waitpid(child, nullptr, 0);
  for (int end : {go[0], go[1], done[0], done[1]}) close(end);
  CHECK(divided - alone > 12 << 20);
  CHECK(divided - alone < 20 << 20);
}

TEST_CASE("the time since this process was started") {
  using Clock = std::chrono::steady_clock;
  const double seconds = process_seconds();
  const auto then = Clock::now();
  CHECK(seconds > 0);
  // A child is younger.
  CHECK(in_a_child([&] {
          const double parent = seconds + std::chrono::duration<double>(Clock::now() - then).count();
          return process_seconds() < parent ? 7 : 1;
        }) == 7);
}
