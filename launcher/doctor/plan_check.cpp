#include "launcher/doctor/plan_check.h"

#include <numeric>

#include "core/host.h"

namespace frameshard {
namespace {

constexpr double tolerated = 1.1;

// The largest part over the mean: 1 is even.
double imbalance(int64_t largest, int64_t total, int parts) {
  return total > 0 ? double(largest) * parts / double(total) : 1;
}

std::string measured(const char* what, int64_t largest, int64_t total, int parts) {
  return fmt::format("{} {} over {} ranks: at most {}, {:.2f} times the mean", total, what, parts, largest,
                     imbalance(largest, total, parts));
}

Finding judge(const char* subject, double uneven, const std::string& text, const std::string& cure) {
  return uneven > tolerated ? change(subject, text, cure, Scope::job) : ok(subject, text, Scope::job);
}

// Groups that divide the heads; a ring joins the rest of the cp group.
std::string ulysses_cure(const PlanFacts& facts) {
  const auto even = std::gcd(facts.heads, int64_t{facts.cp});
  return fmt::format("set infer.attention.ulysses_size={} and ring_size={}", even, facts.cp / even);
}

}  // namespace

Findings check_balance(const PlanFacts& facts) {
  Findings findings;
  if (facts.cp > 1) {
    findings.push_back(judge("tokens", imbalance(facts.largest_tokens, facts.tokens, facts.cp),
                             measured("tokens", facts.largest_tokens, facts.tokens, facts.cp),
                             "set a smaller infer.diffusion.cp_size, or make larger videos"));
  }
  if (facts.ulysses > 1) {
    findings.push_back(judge("heads", imbalance(facts.largest_heads, facts.heads, facts.ulysses),
                             measured("heads", facts.largest_heads, facts.heads, facts.ulysses),
                             ulysses_cure(facts)));
  }
  if (facts.dp > 1) {
    const int64_t rounds = (facts.videos + facts.dp - 1) / facts.dp;
    findings.push_back(judge(
        "replicas", imbalance(rounds, facts.videos, facts.dp),
        fmt::format("{} video{} on {} replicas: {} at most on one", facts.videos,
                    facts.videos == 1 ? "" : "s", facts.dp, rounds),
        "set infer.diffusion.dp_size to a divisor of the number of videos, and give the ranks to cp_size"));
  }
  return findings;
}

Finding check_plan_memory(const PlanFacts& facts) {
  const std::string seen = fmt::format("{} a rank, {} free", format_bytes(double(facts.needed_bytes)),
                                       format_bytes(double(facts.free_bytes)));
  if (facts.needed_bytes <= facts.free_bytes) return ok("plan's memory", seen, Scope::job);
  std::vector<std::string> cures;
  if (facts.fitting_cp > facts.cp) {
    cures.push_back(fmt::format("infer.diffusion.cp_size={} on more devices or hosts", facts.fitting_cp));
  }
  if (facts.bfloat16_fits) cures.push_back("model.dtype=bfloat16");
  cures.push_back("a smaller video (request.width, height, num_frames)");
  cures.push_back("fewer ranks a host");
  return change("plan's memory", seen, fmt::format("{}", fmt::join(cures, ", or ")), Scope::job);
}

}  // namespace frameshard
