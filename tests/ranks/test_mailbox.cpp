// Questions to rank 0 and the queue that is built on them.
#include <atomic>
#include <set>

#include "parallel/comm/mailbox.h"
#include "parallel/comm/text.h"
#include "parallel/work_queue.h"
#include "tests/support/expect_error.h"
#include "tests/support/rank_test.h"

using namespace frameshard;
using frameshard::test::caught;
using frameshard::testing::check;
using frameshard::testing::mpi_world;
using frameshard::testing::on_ranks;

TEST_CASE("every question is answered, one at a time") {
  on_ranks({1, 2, 3, 5}, [](Communicator& comm) {
    constexpr int questions = 50;
    std::atomic<int> inside = 0, answered = 0;
    const MailHandler handler = [&](int rank, const std::string& text) {
      check(++inside == 1, "two calls at once");
      ++answered;
      const std::string answer = fmt::format("{} to {}", text, rank);
      --inside;
      return answer;
    };
    {
      const auto mailbox = comm.open_mailbox(handler);
      for (int i = 0; i < questions; ++i) {
        const std::string text(size_t(i * i), 'x');
        check(mailbox->ask(text) == fmt::format("{} to {}", text, comm.rank()), "an answer");
      }
    }
    // Rank 0's mailbox is closed when all have asked.
    if (comm.rank() == 0) check(answered == questions * comm.size(), "the number of questions");
  });
}

TEST_CASE("questions are answered while rank 0 waits in a collective") {
  on_ranks({2, 3, 5}, [](Communicator& comm) {
    int total = 0;
    const auto mailbox = comm.open_mailbox([&](int, const std::string& text) {
      total += std::stoi(text);
      return std::to_string(total);
    });
    // Rank 0 is in this collective at once, the others only after their answers.
    for (int i = 0; comm.rank() != 0 && i < 20; ++i)
      check(std::stoi(mailbox->ask("1")) > i, "a running total");
    at::Tensor sum = at::full({1}, 1, at::kLong);
    comm.all_reduce(sum);
    check(sum.item<int64_t>() == comm.size(), "a sum");
    if (comm.rank() == 0)
      check(mailbox->ask("0") == std::to_string(20 * (comm.size() - 1)), "the whole total");
  });
}

TEST_CASE("two mailboxes do not mix") {
  on_ranks({1, 2, 3}, [](Communicator& comm) {
    const auto first = comm.open_mailbox([](int, const std::string& text) { return "first " + text; });
    const auto second = comm.open_mailbox([](int, const std::string& text) { return "second " + text; });
    for (int i = 0; i < 5; ++i) {
      check(second->ask("a") == "second a", "the second's answer");
      check(first->ask("") == "first ", "the first's answer");
    }
  });
}

TEST_CASE("an error of the handler reaches the rank that asked, and it alone") {
  on_ranks({1, 2, 3}, [](Communicator& comm) {
    const auto mailbox = comm.open_mailbox([](int rank, const std::string& text) -> std::string {
      if (text == "fail") fail(ExitCode::io, "no room for rank {}", rank);
      if (text == "defect") throw std::runtime_error("unexpected");
      return "fine";
    });
    const auto error = caught([&] { mailbox->ask("fail"); });
    check(error.code == ExitCode::io, "the error's code");
    check(error.message == fmt::format("no room for rank {}", comm.rank()), "the error's message");
    check(mailbox->ask("") == "fine", "the next question");
  });
}

// Under mpirun a failing rank ends the whole program.
TEST_CASE("a failure leaves nobody waiting at a mailbox") {
  if (mpi_world()) return;
  for (int failing : {0, 1, 2}) {
    INFO("rank " << failing << " fails");
    const auto error = caught([&] {
      run_ranks(3, [&](Communicator& comm) {
        const auto mailbox = comm.open_mailbox([](int, const std::string& text) { return text; });
        if (comm.rank() == failing) fail(ExitCode::bad_data, "first");
        mailbox->ask("x");
        comm.barrier();
      });
    });
    CHECK(error.code == ExitCode::bad_data);
    CHECK(error.message == "first");
  }
}

TEST_CASE("a queue gives each item once, in order, and brings back each report") {
  on_ranks({1, 2, 3, 4}, [](Communicator& comm) {
    const std::vector<int64_t> order{4, 0, 7, 2, 6, 1, 5, 3};
    std::vector<std::string> reports;
    std::vector<int64_t> mine;
    {
      WorkQueue queue(comm, comm.rank() == 0 ? order : std::vector<int64_t>{},
                      [&](int64_t item, const std::string& text) {
                        reports.push_back(fmt::format("{}:{}", item, text));
                      });
      std::string report;
      while (const auto item = queue.next(report)) {
        mine.push_back(*item);
        report = fmt::format("rank {} did {}", comm.rank(), *item);
      }
      check(!queue.next().has_value(), "an empty queue stays empty");
      comm.barrier();
      if (comm.rank() == 0) {
        const QueueUse use = queue.use();
        check(use.items == int64_t(order.size()), "the number of items");
        check(use.busy_seconds > 0 && use.idle_share(comm.size()) < 1, "the time at work");
      }
    }
    if (comm.rank() == 0) check(reports.size() == order.size(), "a report an item");
    for (const std::string& report : reports) {
      check(report.find("did " + report.substr(0, 1)) != std::string::npos,
            "a report of the item: " + report);
    }
    // What a rank got is in the queue's order, and together it is everything.
    const auto place = [&](int64_t item) { return std::find(order.begin(), order.end(), item); };
    for (size_t i = 1; i < mine.size(); ++i) check(place(mine[i - 1]) < place(mine[i]), "the order");
    std::string text;
    for (int64_t item : mine) text += std::to_string(item);
    std::string all;
    for (const std::string& part : gather_texts(comm, text)) all += part;
    check(all.size() == order.size() && std::set<char>(all.begin(), all.end()).size() == order.size(),
          "each item once: " + all);
  });
}

TEST_CASE("a rank that never asks leaves its share to the others") {
  on_ranks({2, 3}, [](Communicator& comm) {
    int64_t reported = 0;
    WorkQueue queue(comm, {0, 1, 2, 3, 4}, [&](int64_t, const std::string&) { ++reported; });
    int got = 0;
    while (comm.rank() == 1 && queue.next()) ++got;
    comm.barrier();
    if (comm.rank() == 1) check(got == 5, "all items");
    if (comm.rank() == 0) check(reported == 5 && queue.use().items == 5, "all reports");
  });
}

TEST_CASE("an error of a report reaches the rank that reported") {
  on_ranks({1, 2}, [](Communicator& comm) {
    WorkQueue queue(comm, {0}, [&](int64_t, const std::string& text) { fail(ExitCode::io, "{}", text); });
    const int last = comm.size() - 1;
    if (comm.rank() != last) return;
    check(queue.next().has_value(), "the item");
    const auto error = caught([&] { queue.next("the disk is full"); });
    check(error.code == ExitCode::io && error.message == "the disk is full", "the error");
  });
}

TEST_CASE("the longest work first, equal ones as they came") {
  if (mpi_world()) return;
  CHECK(longest_first({}).empty());
  CHECK(longest_first(std::vector<double>{1}) == std::vector<int64_t>{0});
  CHECK(longest_first(std::vector<double>{1, 3, 2, 3, 1}) == std::vector<int64_t>{1, 3, 2, 0, 4});
}

TEST_CASE("longest first leaves little idle time") {
  if (mpi_world()) return;
  // 24 videos of four sizes on 2 replicas, played through by their costs.
  std::vector<double> costs;
  for (int i = 0; i < 24; ++i) costs.push_back(std::vector<double>{1, 2, 4, 8}[size_t(i * 7 % 4)]);
  QueueUse use;
  std::vector<double> free_at{0, 0};
  for (int64_t item : longest_first(costs)) {
    auto next = std::min_element(free_at.begin(), free_at.end());
    *next += costs[size_t(item)];
    use.busy_seconds += costs[size_t(item)];
  }
  use.total_seconds = *std::max_element(free_at.begin(), free_at.end());
  CHECK(use.idle_share(2) < 0.03);
  CHECK(QueueUse{}.idle_share(2) == 0);
}
