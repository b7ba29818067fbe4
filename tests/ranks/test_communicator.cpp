// Every collective against a direct computation: what each rank puts in is known to all.
#include <cstdlib>

#include "parallel/comm/communicator.h"
#include "parallel/comm/self.h"
#include "parallel/comm/text.h"
#include "parallel/mesh.h"
#include "tests/support/expect_error.h"
#include "tests/support/rank_test.h"

using namespace frameshard;
using frameshard::test::caught;
using frameshard::testing::check;
using frameshard::testing::mpi_world;
using frameshard::testing::on_ranks;

namespace {

constexpr at::ScalarType dtypes[] = {at::kFloat, at::kDouble, at::kBFloat16, at::kLong};

// Small whole numbers, exact in every type even when 5 of them are added.
at::Tensor numbers(int rank, int64_t count, at::ScalarType dtype) {
  return ((at::arange(count, at::kLong) * (rank + 2) + rank).remainder(11) - 3).to(dtype);
}

// Uneven, some of them 0; the same on every rank. Variant 2: all 0.
Counts counts_for(int ranks, int variant) {
  Counts counts;
  for (int i = 0; i < ranks; ++i) counts.push_back(variant == 2 ? 0 : (i * 3 + variant * 2 + 1) % 4);
  return counts;
}

void check_same(const at::Tensor& got, const at::Tensor& wanted, const std::string& what) {
  check(got.scalar_type() == wanted.scalar_type() && at::equal(got.cpu(), wanted), what);
}

template <class Body>
void for_each_case(Communicator& comm, Body body) {
  for (at::ScalarType dtype : dtypes) {
    for (int variant : {0, 1, 2}) body(dtype, counts_for(comm.size(), variant));
  }
}

}  // namespace

TEST_CASE("all_reduce: sum, max and min on every rank") {
  on_ranks({1, 2, 3, 4, 5}, [](Communicator& comm) {
    for (at::ScalarType dtype : dtypes) {
      for (int64_t count : {0, 1, 2, 17, 1000}) {
        at::Tensor sum = numbers(0, count, dtype), max = sum, min = sum;
        for (int i = 1; i < comm.size(); ++i) {
          const at::Tensor other = numbers(i, count, dtype);
          sum = sum + other, max = at::maximum(max, other), min = at::minimum(min, other);
        }
        for (auto [op, wanted] :
             {std::pair(ReduceOp::sum, sum), {ReduceOp::max, max}, {ReduceOp::min, min}}) {
          at::Tensor mine = numbers(comm.rank(), count, dtype).clone();
          comm.all_reduce(mine, op);
          check_same(mine, wanted, fmt::format("all_reduce of {} {}", count, c10::toString(dtype)));
        }
      }
    }
  });
}

TEST_CASE("all_reduce of floats: the same bits on every rank") {
  on_ranks({1, 2, 3, 4, 5}, [](Communicator& comm) {
    at::Tensor mine = at::arange(1000, at::kFloat).mul(0.1 + comm.rank()).sin();
    comm.all_reduce(mine);
    const at::Tensor all = comm.all_gather(mine, Counts(size_t(comm.size()), 1000)).view({comm.size(), 1000});
    for (int i = 0; i < comm.size(); ++i) check(at::equal(all[i], mine), "bits of a sum");
  });
}

TEST_CASE("all_gather: pieces of any size, in rank order") {
  on_ranks({1, 2, 3, 4, 5}, [](Communicator& comm) {
    for_each_case(comm, [&](at::ScalarType dtype, const Counts& counts) {
      std::vector<at::Tensor> parts;
      for (int i = 0; i < comm.size(); ++i) parts.push_back(numbers(i, counts[size_t(i)], dtype));
      const at::Tensor &mine = parts[size_t(comm.rank())], wanted = at::cat(parts);
      check_same(comm.all_gather(mine, counts), wanted, "all_gather");
      check_same(comm.start_all_gather(mine, counts)->wait(), wanted, "all_gather in two halves");
      at::Tensor whole = at::full_like(wanted, -7);
      whole.narrow(0, offsets_of(counts)[size_t(comm.rank())], mine.numel()).copy_(mine);
      comm.all_gather_in_place(whole, counts);
      check_same(whole, wanted, "all_gather in place");
    });
  });
}

TEST_CASE("reduce_scatter: each rank its piece of the sum") {
  on_ranks({1, 2, 3, 4, 5}, [](Communicator& comm) {
    for_each_case(comm, [&](at::ScalarType dtype, const Counts& counts) {
      const auto offsets = offsets_of(counts);
      const auto me = size_t(comm.rank());
      at::Tensor total = numbers(0, offsets.back(), dtype);
      for (int i = 1; i < comm.size(); ++i) total = total + numbers(i, offsets.back(), dtype);
      const at::Tensor mine = numbers(comm.rank(), offsets.back(), dtype);
      const at::Tensor wanted = total.narrow(0, offsets[me], counts[me]);
      check_same(comm.reduce_scatter(mine, counts), wanted, "reduce_scatter");
      check_same(comm.start_reduce_scatter(mine, counts)->wait(), wanted, "reduce_scatter in two halves");
    });
  });
}

TEST_CASE("reduce_scatter of 16-bit floats: added up in float32 under MPI, and rounded once") {
  if (!mpi_world()) return;
  on_ranks({3, 4, 5}, [](Communicator& comm) {
    // In bfloat16 256 + 1 is 256, however often 1 is added.
    const at::Tensor mine = at::full({comm.size()}, comm.rank() == 0 ? 256 : 1, at::kBFloat16);
    const at::Tensor sum = comm.reduce_scatter(mine, Counts(size_t(comm.size()), 1));
    check_same(sum, at::full({1}, 256 + comm.size() - 1, at::kFloat).to(at::kBFloat16), "sum");
  });
}

TEST_CASE("sums and gatherings under way give what one after the other gives, large ones too") {
  on_ranks({1, 2, 3, 4, 5}, [](Communicator& comm) {
    const auto me = size_t(comm.rank());
    const auto counts_of = [&](int64_t i) {
      return Counts(size_t(comm.size()), i == 2 ? 50'000 : i + 1);  // beyond what MPI sends unasked
    };
    const auto mine = [&](int64_t i) {
      return at::arange(offsets_of(counts_of(i)).back(), at::kFloat) + double(i) + comm.rank();
    };
    std::vector<std::unique_ptr<PendingExchange>> sums, gatherings;
    for (int64_t i = 0; i < 4; ++i) {
      sums.push_back(comm.start_reduce_scatter(mine(i), counts_of(i)));
      gatherings.push_back(comm.start_all_gather(mine(i).narrow(0, 0, counts_of(i)[me]), counts_of(i)));
    }
    const auto refused = caught([&] { comm.barrier(); });
    check(comm.size() == 1 || refused.has("8 exchanges were started"), "another collective meanwhile");
    for (size_t i : {3, 1, 0, 2}) {
      const auto counts = counts_of(int64_t(i));
      const int64_t each = counts[0], n = comm.size();
      const at::Tensor wanted = n * (mine(int64_t(i)) - comm.rank()) + double(n * (n - 1) / 2);
      check_same(sums[i]->wait(), wanted.narrow(0, comm.rank() * each, each), "sum");
      const at::Tensor all = gatherings[i]->wait().view({n, each});
      for (int64_t j = 0; j < n; ++j) {
        check_same(all[j], mine(int64_t(i)).narrow(0, 0, each) - comm.rank() + double(j), "gathering");
      }
    }
    comm.barrier();
  });
}

TEST_CASE("all_to_all: any count between any two ranks") {
  on_ranks({1, 2, 3, 4, 5}, [](Communicator& comm) {
    for (at::ScalarType dtype : dtypes) {
      for (int variant : {0, 1, 2, 3}) {
        // From i to j; variant 2: nothing at all; variant 3: to the next rank alone, as a ring does.
        const auto count = [&](int i, int j) -> int64_t {
          if (variant == 3) return j == (i + 1) % comm.size() ? 3 + i : 0;
          return variant == 2 ? 0 : (i * 3 + j * 5 + variant) % 4;
        };
        const auto message = [&](int i, int j) { return numbers(i * 7 + j, count(i, j), dtype); };
        Counts send_counts, recv_counts;
        std::vector<at::Tensor> send, wanted;
        for (int i = 0; i < comm.size(); ++i) {
          send_counts.push_back(count(comm.rank(), i)), recv_counts.push_back(count(i, comm.rank()));
          send.push_back(message(comm.rank(), i)), wanted.push_back(message(i, comm.rank()));
        }
        check_same(comm.all_to_all(at::cat(send), send_counts, recv_counts), at::cat(wanted), "all_to_all");
      }
    }
  });
}

TEST_CASE("broadcast from every root") {
  on_ranks({1, 2, 3, 4, 5}, [](Communicator& comm) {
    for (at::ScalarType dtype : dtypes) {
      for (int root = 0; root < comm.size(); ++root) {
        at::Tensor tensor = numbers(comm.rank(), 21, dtype).view({3, 7}).clone();
        comm.broadcast(tensor, root);
        check_same(tensor, numbers(root, 21, dtype).view({3, 7}), "broadcast");
      }
    }
    at::Tensor empty = at::empty({0});
    comm.broadcast(empty, 0);
    comm.barrier();
  });
}

TEST_CASE("split: groups by color, ordered by key, with collectives of their own") {
  on_ranks({1, 2, 3, 4, 5}, [](Communicator& comm) {
    const int color = comm.rank() % 2, n = comm.size();
    const CommPtr part = comm.split(color, /*key=*/-comm.rank(), fmt::format("half{}", color));
    std::vector<int> members;  // the highest rank first
    for (int i = n - 1; i >= 0; --i) {
      if (i % 2 == color) members.push_back(i);
    }
    check(part->size() == int(members.size()), "size of a group");
    check(members[size_t(part->rank())] == comm.rank(), "rank in a group");
    check(part->name() == fmt::format("half{}", color), "name of a group");

    at::Tensor sum = at::full({1}, comm.rank(), at::kLong);
    part->all_reduce(sum);
    int64_t wanted = 0;
    for (int member : members) wanted += member;
    check(sum.item<int64_t>() == wanted, "a sum in a group");
    const at::Tensor all = part->all_gather(at::full({1}, comm.rank(), at::kLong), Counts(members.size(), 1));
    for (size_t i = 0; i < members.size(); ++i)
      check(all[int64_t(i)].item<int>() == members[i], "order in a group");

    // Groups of a group, and the group they came from goes on.
    const CommPtr alone = part->split(part->rank(), 0, "alone");
    check(alone->size() == 1 && alone->rank() == 0, "a group of one");
    at::Tensor everyone = at::ones({1});
    comm.all_reduce(everyone);
    check(everyone.item<double>() == n, "a sum over the whole world after a split");
  });
}

TEST_CASE("groups of different axes at once") {
  on_ranks({4}, [](Communicator& world) {
    ProcessMesh mesh(world, {.dp = 1, .cfg = 2, .cp = 2}, [](CommPtr group) { return group; });
    const auto sum_over = [&](Communicator& group) {
      at::Tensor sum = at::full({1}, world.rank(), at::kLong);
      group.all_reduce(sum);
      return sum.item<int64_t>();
    };
    check(sum_over(mesh.cp()) == (world.rank() < 2 ? 0 + 1 : 2 + 3), "cp group");
    check(sum_over(mesh.cfg()) == (world.rank() % 2 == 0 ? 0 + 2 : 1 + 3), "cfg group");
    check(sum_over(mesh.replica()) == 6, "replica");
    check(sum_over(mesh.dp()) == world.rank(), "dp group");
    check(mesh.cp().name() == (world.rank() < 2 ? "cp{0,1}" : "cp{2,3}"), "name");
  });
}

TEST_CASE("texts of any length, from every rank") {
  on_ranks({1, 2, 3, 4, 5}, [](Communicator& comm) {
    const auto text_of = [](int rank) {
      return rank == 1 ? std::string()
                       : std::string(size_t(rank * 1000), char('a' + rank)) + std::string("\0é", 3);
    };
    const auto texts = gather_texts(comm, text_of(comm.rank()));
    check(int(texts.size()) == comm.size(), "a text a rank");
    for (int i = 0; i < comm.size(); ++i) check(texts[size_t(i)] == text_of(i), "text of a rank");
    for (const std::string& text : gather_texts(comm, "")) check(text.empty(), "empty texts");

    const auto all = gather_numbers(comm, {comm.rank() + 0.25, -1e300});
    for (int i = 0; i < comm.size(); ++i)
      check(all[size_t(i)] == std::vector<double>{i + 0.25, -1e300}, "numbers");
    check(gather_numbers(comm, {}).size() == size_t(comm.size()), "no numbers");
  });
}

TEST_CASE("a group counts what it moves") {
  on_ranks({1, 2, 3, 4, 5}, [](Communicator& comm) {
    const CommPtr part = comm.split(0, comm.rank(), "counted");
    const int64_t n = part->size(), me = part->rank();
    part->all_gather(at::zeros({me + 1}), [&] {
      Counts counts;
      for (int64_t i = 0; i < n; ++i) counts.push_back(i + 1);
      return counts;
    }());
    check(part->stats().bytes_sent == (n - 1) * (me + 1) * 4, "bytes of all_gather");
    const int64_t before = part->stats().bytes_sent;
    part->all_to_all(at::zeros({n * 3}, at::kDouble), Counts(size_t(n), 3), Counts(size_t(n), 3));
    check(part->stats().bytes_sent - before == (n - 1) * 3 * 8, "bytes of all_to_all");
    check(part->stats().calls == (n > 1 ? 2 : 0), "a group of one is free");
    const CommStats moved = part->stats();
    part->start_all_gather(at::zeros({5}), Counts(size_t(n), 5))->wait();
    check(part->stats().bytes_sent - moved.bytes_sent == (n - 1) * 5 * 4,
          "bytes of all_gather in two halves");
    part->start_reduce_scatter(at::zeros({n * 3}), Counts(size_t(n), 3))->wait();
    check(part->stats().bytes_sent - moved.bytes_sent == (n - 1) * (5 + 3) * 4,
          "bytes of reduce_scatter in two halves");
    check(part->stats().calls - moved.calls == (n > 1 ? 2 : 0), "an operation in two halves counts once");
  });
}

TEST_CASE("arguments that do not fit are refused before anything moves") {
  on_ranks({1, 2, 3, 4, 5}, [](Communicator& comm) {
    const auto n = size_t(comm.size());
    const auto refused = [](auto call) { return caught(call).code == ExitCode::internal; };
    at::Tensor turned = at::zeros({3, 2}).t(), three = at::zeros({3});
    check(refused([&] { comm.all_reduce(turned); }), "a tensor that is not contiguous");
    check(refused([&] { comm.all_gather(three, Counts(n, 2)); }), "a count that is not the tensor's");
    check(refused([&] { comm.all_gather(three, Counts(n + 1, 3)); }), "a count too many");
    check(refused([&] { comm.reduce_scatter(three, Counts(n, 4)); }),
          "a sum of counts that is not the tensor's");
    check(refused([&] { comm.start_all_gather(three, Counts(n, 2)); }), "likewise in two halves");
    check(refused([&] { comm.start_reduce_scatter(three, Counts(n, 4)); }), "a sum of counts likewise");
    check(refused([&] { comm.all_gather_in_place(three, Counts(n, 4)); }), "a sum of counts in place");
    check(refused([&] { comm.all_to_all(three, Counts(n, -1), Counts(n, 3)); }), "a negative count");
    check(refused([&] { comm.broadcast(three, comm.size()); }), "a root that is no rank");
    Counts send(n, 0), recv(n, 0);
    send[size_t(comm.rank())] = 3, recv[size_t(comm.rank())] = 2;
    check(refused([&] { comm.all_to_all(three, send, recv); }), "another count to itself");
    comm.barrier();
  });
}

TEST_CASE("a rank that throws wakes the others, and its message is the one that arrives") {
  if (mpi_world()) return;  // a process that fails ends the job
  for (int n : {2, 3, 5}) {
    for (int culprit : {0, n - 1}) {
      const auto error = caught([&] {
        run_ranks(n, [&](Communicator& comm) {
          const CommPtr part = comm.split(comm.rank() % 2, comm.rank(), "part");
          at::Tensor tensor = at::ones({4});
          if (comm.rank() == culprit) fail(ExitCode::bad_data, "rank {} found a bad file", culprit);
          if (comm.rank() % 3 == 1)
            part->all_reduce(tensor);  // some wait in a group, the others in the world
          comm.all_gather(tensor, Counts(size_t(n), 4));
        });
      });
      CHECK(error.code == ExitCode::bad_data);
      CHECK(error.message == fmt::format("rank {} found a bad file", culprit));
    }
  }
}

TEST_CASE("a foreign exception arrives as it is") {
  if (mpi_world()) return;
  CHECK_THROWS_AS(run_ranks(3,
                            [](Communicator& comm) {
                              if (comm.rank() == 1) throw std::out_of_range("of something");
                              comm.barrier();
                            }),
                  std::out_of_range);
}

TEST_CASE("a rank that fails inside a collective takes nothing away that others still read") {
  if (mpi_world()) return;
  const int64_t large = 1 << 20;  // others read it for a while
  for (int round = 0; round < 20; ++round) {
    const auto error = caught([&] {
      run_ranks(3, [&](Communicator& comm) {
        const bool last = comm.rank() == 2;
        comm.all_gather(at::ones({last ? large : 3}), {last ? 4 : 3, 3, large});
      });
    });
    CHECK(error.code == ExitCode::internal);
    CHECK(error.message == "all_gather on world: rank 0 sends 3 elements, 4 expected");
  }
}

TEST_CASE("ranks of one node follow each other") {
  on_ranks({1, 2, 3, 4, 5}, [](Communicator& comm) {
    const char* node = std::getenv("SLURM_NODEID");  // else all are on one
    const auto nodes = gather_texts(comm, node ? node : "one");
    for (size_t i = 1; i < nodes.size(); ++i) {
      const bool returns =
          nodes[i] != nodes[i - 1] && std::count(nodes.begin(), nodes.begin() + int64_t(i), nodes[i]) > 0;
      check(!returns, fmt::format("nodes in the order of ranks: {}", fmt::join(nodes, " ")));
    }
  });
}
