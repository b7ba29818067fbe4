// The sweep over message sizes on the backend that a run would use, in words.
#pragma once

#include <functional>

#include "launcher/doctor/examine.h"
#include "launcher/ranks.h"

namespace frameshard {

struct ExchangeOptions {
  std::string device = "auto", backend = "auto";  ///< as infer.device and infer.backend
  double seconds = 2;
  std::function<void(const std::string& what)> waits_for;  ///< called before something that may hang
};

struct ExchangeReport {
  Findings findings;
  std::string tables;
};

/// Collective over `world`, of two or more ranks. Throws what MPI and NCCL throw.
ExchangeReport check_exchange(Communicator& world, const Hosts& hosts, const RankPlace& place,
                              const ExchangeOptions& options);

}  // namespace frameshard
