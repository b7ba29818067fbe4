// Exchanges that go on while ranks compute: all_to_all in two halves, and Ulysses in chunks of the heads
// against Ulysses at once.
#include <c10/core/GradMode.h>

#include "core/rng.h"
#include "models/common/attention_kernel.h"
#include "parallel/strategies.h"
#include "tests/support/expect_error.h"
#include "tests/support/rank_test.h"

using namespace frameshard;
using frameshard::test::caught;
using frameshard::testing::check;
using frameshard::testing::check_close;
using frameshard::testing::on_ranks;

namespace {

// Of exchange `number` from rank i to rank j; some of them empty.
at::Tensor message(int number, int i, int j) {
  return at::arange((number + i * 3 + j * 5) % 4, at::kDouble) + 100 * number + 10 * i + j;
}

struct Exchange {
  at::Tensor send, wanted;
  Counts send_counts, recv_counts;

  Exchange(int number, const Communicator& comm) {
    std::vector<at::Tensor> there, here;
    for (int i = 0; i < comm.size(); ++i) {
      there.push_back(message(number, comm.rank(), i)), here.push_back(message(number, i, comm.rank()));
      send_counts.push_back(there.back().numel()), recv_counts.push_back(here.back().numel());
    }
    send = at::cat(there), wanted = at::cat(here);
  }
};

struct Attended {
  at::Tensor output;
  int64_t calls, bytes;
};

struct Problem {
  int64_t heads;
  at::ScalarType dtype = at::kDouble;
  int64_t batch = 2, head_dim = 8;
};

Attended attend(Communicator& comm, AttentionShape shape, const Problem& problem, const Partition& tokens,
                ExchangeOverlap overlap) {
  const auto mine = [&](uint64_t seed) {
    return initial_noise({problem.batch, tokens.total(), problem.heads, problem.head_dim}, seed)
        .to(problem.dtype)
        .narrow(1, tokens.begin(comm.rank()), tokens.size(comm.rank()));
  };
  const CommPtr group = comm.split(0, comm.rank(), "cp");
  const CommStats before = group->stats();
  const AttentionStrategy strategy(*group, shape, overlap);
  const at::Tensor output = strategy->self_attention({mine(1), mine(2), mine(3)}, tokens, sdpa_kernel());
  return {output, group->stats().calls - before.calls, group->stats().bytes_sent - before.bytes_sent};
}

// All ranks with tokens, some without, fewer tokens than ranks.
std::vector<Partition> partitions(int parts) {
  std::vector<double> speeds;
  for (int i = 0; i < parts; ++i) speeds.push_back(parts == 1 ? 1 : i);
  return {Partition::even(5 * parts + 2, parts), Partition::weighted(17, speeds), Partition::even(2, parts)};
}

}  // namespace

TEST_CASE("several all_to_all under way give what one after the other gives") {
  on_ranks({1, 2, 3, 4, 5}, [](Communicator& comm) {
    const std::vector<Exchange> exchanges{{0, comm}, {1, comm}, {2, comm}, {3, comm}};
    std::vector<std::unique_ptr<PendingExchange>> pending;
    for (const Exchange& each : exchanges) {
      pending.push_back(comm.start_all_to_all(each.send, each.send_counts, each.recv_counts));
    }
    for (size_t i : {0, 2, 1, 3}) check(at::equal(pending[i]->wait(), exchanges[i].wanted), "what came");
    const Exchange last(4, comm);
    check(at::equal(comm.all_to_all(last.send, last.send_counts, last.recv_counts), last.wanted),
          "an exchange after them");
  });
}

TEST_CASE("an exchange in two halves counts once") {
  on_ranks({2, 3, 4, 5}, [](Communicator& comm) {
    const Exchange one(1, comm);
    const CommStats before = comm.stats();
    comm.all_to_all(one.send, one.send_counts, one.recv_counts);
    const int64_t bytes = comm.stats().bytes_sent - before.bytes_sent;
    comm.start_all_to_all(one.send, one.send_counts, one.recv_counts)->wait();
    check(comm.stats().calls == before.calls + 2, "calls");
    check(comm.stats().bytes_sent == before.bytes_sent + 2 * bytes, "bytes");
    check(comm.stats().seconds >= before.seconds, "seconds");
  });
}

TEST_CASE("other collectives wait until an exchange has ended") {
  on_ranks({2, 3}, [](Communicator& comm) {
    const Exchange one(1, comm);
    const auto pending = comm.start_all_to_all(one.send, one.send_counts, one.recv_counts);
    const auto refused = caught([&] { comm.barrier(); });
    check(refused.code == ExitCode::internal && refused.has("1 exchanges were started and not waited for"),
          refused.message);
    pending->wait();
    const auto twice = caught([&] { pending->wait(); });
    check(twice.code == ExitCode::internal && twice.has("was waited for twice"), twice.message);
    comm.barrier();
  });
}

TEST_CASE("Ulysses in chunks of the heads gives what it gives at once") {
  on_ranks({1, 2, 3, 4, 5}, [](Communicator& comm) {
    const c10::NoGradGuard no_grad;
    // Of 7 heads over 2 ranks: 4 and 3 in 4 chunks, the last of which is empty on a rank. Of 5 over 3, and of
    // 2 over 3: a rank with one chunk of two, and a rank without heads.
    for (const Problem& problem : {Problem{12}, Problem{7}, Problem{5}, Problem{2}, Problem{7, at::kFloat},
                                   Problem{8, at::kBFloat16, 1}}) {
      for (const Partition& tokens : partitions(comm.size())) {
        const AttentionShape shape{.ulysses = comm.size(), .ring = 1};
        const Attended whole = attend(comm, shape, problem, tokens, ExchangeOverlap::off);
        const Attended chunks = attend(comm, shape, problem, tokens, ExchangeOverlap::on);
        const std::string where =
            fmt::format(" ({} heads, tokens {})", problem.heads, fmt::join(tokens.sizes(), "+"));
        const double tolerance = problem.dtype == at::kBFloat16 ? 1e-2 : 1e-6;
        check_close(chunks.output, whole.output, tolerance, "output" + where);
        check(chunks.output.scalar_type() == problem.dtype, "element type" + where);
        check(chunks.bytes == whole.bytes, "bytes" + where);
        if (comm.size() == 1) continue;
        const int64_t heads = (problem.heads + comm.size() - 1) / comm.size();
        check(whole.calls == 2, "exchanges at once" + where);
        check(chunks.calls == 2 * std::min<int64_t>(4, heads), "exchanges in chunks" + where);
      }
    }
  });
}

TEST_CASE("no chunks where a gradient is wanted, where a ring attends, or by themselves on a CPU") {
  on_ranks({2, 4}, [](Communicator& comm) {
    const Problem problem{8};
    const Partition tokens = Partition::even(24, comm.size());
    const AttentionShape ulysses{.ulysses = comm.size(), .ring = 1};
    check(attend(comm, ulysses, problem, tokens, ExchangeOverlap::on).calls == 2, "with a gradient");
    const c10::NoGradGuard no_grad;
    check(attend(comm, ulysses, problem, tokens, ExchangeOverlap::automatic).calls == 2, "auto");
    if (comm.size() < 4) return;
    const AttentionShape both{.ulysses = 2, .ring = 2};
    const Attended off = attend(comm, both, problem, tokens, ExchangeOverlap::off);
    const Attended on = attend(comm, both, problem, tokens, ExchangeOverlap::on);
    check(at::equal(on.output, off.output), "a ring between Ulysses groups");
  });
}
