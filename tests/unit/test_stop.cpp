// Requests to stop while threads compute.
#include <array>
#include <atomic>
#include <csignal>
#include <thread>

#include <pthread.h>
#include <unistd.h>

#include "core/rng.h"
#include "core/stop.h"
#include "models/common/products.h"
#include "tests/support/catch.h"

using namespace frameshard;

TEST_CASE("signals do not touch what oneDNN's products have on their stack") {
  stop_on_sigusr1();
  REQUIRE_FALSE(stop_requested());
  // oneDNN takes one of several ways by the sizes.
  std::vector<std::pair<at::Tensor, at::Tensor>> pairs;
  for (const auto& [n, k, m] : {std::array{576, 256, 1024},
                                {64, 256, 256},
                                {576, 16, 256},
                                {256, 576, 16},
                                {576, 256, 16},
                                {16, 64, 16},
                                {576, 1024, 256},
                                {256, 576, 256},
                                {1, 256, 1536}}) {
    pairs.emplace_back(initial_noise({n, k}, 1), initial_noise({k, m}, 2));
    pairs.emplace_back(initial_noise({k, n}, 1).t(), initial_noise({k, m}, 2));
    pairs.emplace_back(initial_noise({n, k}, 1), initial_noise({m, k}, 2).t());
  }
  const auto products = [&] {
    std::vector<at::Tensor> all;
    for (const auto& [x, y] : pairs) all.push_back(onednn::matrix_product(x, y));
    return all;
  };
  const std::vector<at::Tensor> wanted = products();
  std::atomic<bool> done = false;
  std::thread sender([&] {
    while (!done) {
      kill(getpid(), SIGUSR1);
      usleep(100);  // else nothing but signals is done
    }
  });
  bool equal = true;
  for (int i = 0; i < 60 && equal; ++i) {
    const std::vector<at::Tensor> made = products();
    for (size_t j = 0; j < made.size(); ++j) equal = equal && at::equal(made[j], wanted[j]);
  }
  done = true;
  sender.join();
  CHECK(equal);
  CHECK(stop_requested());
  CHECK_FALSE(interrupted());
}

TEST_CASE("threads that are started later take no such signal") {
  stop_on_sigusr1();
  std::thread([] {
    sigset_t blocked;
    pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
    for (const int signal : {SIGUSR1, SIGTERM, SIGINT}) CHECK(sigismember(&blocked, signal) == 1);
  }).join();
}
