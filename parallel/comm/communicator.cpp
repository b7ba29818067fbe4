#include "parallel/comm/communicator.h"

#include <chrono>
#include <numeric>

#include "core/error.h"
#include "core/trace.h"

namespace frameshard {
namespace {

int64_t sum(const Counts& counts) {
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

}  // namespace

std::vector<int64_t> offsets_of(const Counts& counts) {
  std::vector<int64_t> offsets{0};
  for (int64_t count : counts) offsets.push_back(offsets.back() + count);
  return offsets;
}

// Counts, times and traces one collective for as long as it lives. The wait for one that was started is timed
// and traced alone.
class Communicator::Gate {
 public:
  enum class Kind { whole, start, wait };
  Gate(Communicator& comm, const char* operation, int64_t bytes_sent, Kind kind = Kind::whole)
      : comm_(comm), operation_(operation), bytes_sent_(bytes_sent), start_(TraceClock::now()) {
    require(kind != Kind::whole || comm.pending_ == 0,
            "{} on {}, rank {}: {} exchanges were started and not waited for", operation, comm.name(),
            comm.rank(), comm.pending_);
    if (kind == Kind::wait) return;
    ++comm_.stats_.calls;
    comm_.stats_.bytes_sent += bytes_sent;
  }
  ~Gate() {
    const auto end = TraceClock::now();
    comm_.stats_.seconds += std::chrono::duration<double>(end - start_).count();
    if (TraceRecorder* recorder = TraceRecorder::current()) {
      recorder->add({.name = fmt::format("{} {}", operation_, comm_.name()),
                     .begin = start_,
                     .end = end,
                     .group_size = comm_.size(),
                     .bytes_sent = bytes_sent_});
    }
  }

 private:
  Communicator& comm_;
  const char* operation_;
  int64_t bytes_sent_;
  TraceClock::time_point start_;
};

namespace {

void check_flat(const Communicator& comm, const char* operation, const at::Tensor& tensor, int64_t elements) {
  require(tensor.is_contiguous() && tensor.numel() == elements,
          "{} on {}, rank {}: {} elements ({}contiguous) where {} are counted", operation, comm.name(),
          comm.rank(), tensor.numel(), tensor.is_contiguous() ? "" : "not ", elements);
}

void check_counts(const Communicator& comm, const char* operation, const Counts& counts) {
  require(int(counts.size()) == comm.size() &&
              std::all_of(counts.begin(), counts.end(), [](auto c) { return c >= 0; }),
          "{} on {}: {} counts for {} ranks", operation, comm.name(), counts.size(), comm.size());
}

}  // namespace

void Communicator::all_reduce(at::Tensor& tensor, ReduceOp op) {
  check_flat(*this, "all_reduce", tensor, tensor.numel());
  if (size_ == 1 || tensor.numel() == 0) return;
  // Ring and tree algorithms send about this much each.
  Gate gate(*this, "all_reduce", 2 * int64_t(tensor.nbytes()) * (size_ - 1) / size_);
  do_all_reduce(tensor, op);
}

at::Tensor Communicator::all_gather(const at::Tensor& mine, const Counts& recv) {
  check_counts(*this, "all_gather", recv);
  check_flat(*this, "all_gather", mine, recv[size_t(rank_)]);
  if (size_ == 1) return mine.view({-1});
  at::Tensor out = at::empty({sum(recv)}, mine.options());
  Gate gate(*this, "all_gather", int64_t(mine.nbytes()) * (size_ - 1));
  do_all_gather(mine, out, recv);
  return out;
}

void Communicator::all_gather_in_place(at::Tensor& whole, const Counts& recv) {
  check_counts(*this, "all_gather", recv);
  check_flat(*this, "all_gather", whole, sum(recv));
  if (size_ == 1) return;
  const auto me = size_t(rank_);
  const at::Tensor mine = whole.view({-1}).narrow(0, offsets_of(recv)[me], recv[me]);
  Gate gate(*this, "all_gather", int64_t(mine.nbytes()) * (size_ - 1));
  do_all_gather(mine, whole, recv);
}

std::unique_ptr<PendingExchange> Communicator::start_all_gather(const at::Tensor& mine, const Counts& recv) {
  check_counts(*this, "all_gather", recv);
  check_flat(*this, "all_gather", mine, recv[size_t(rank_)]);
  at::Tensor out = size_ == 1 ? mine.view({-1}) : at::empty({sum(recv)}, mine.options());
  PendingExchange::Work work;
  if (size_ > 1) {
    Gate gate(*this, "all_gather_start", int64_t(mine.nbytes()) * (size_ - 1), Gate::Kind::start);
    work = do_start_all_gather(mine, out, recv);
  }
  return std::make_unique<PendingExchange>(*this, "all_gather_wait", mine, std::move(out), std::move(work));
}

at::Tensor Communicator::reduce_scatter(const at::Tensor& whole, const Counts& counts) {
  check_counts(*this, "reduce_scatter", counts);
  check_flat(*this, "reduce_scatter", whole, sum(counts));
  if (size_ == 1) return whole.view({-1});
  const int64_t mine = counts[size_t(rank_)];
  at::Tensor out = at::empty({mine}, whole.options());
  Gate gate(*this, "reduce_scatter", (whole.numel() - mine) * whole.element_size());
  do_reduce_scatter(whole, out, counts);
  return out;
}

std::unique_ptr<PendingExchange> Communicator::start_reduce_scatter(const at::Tensor& whole,
                                                                    const Counts& counts) {
  check_counts(*this, "reduce_scatter", counts);
  check_flat(*this, "reduce_scatter", whole, sum(counts));
  const int64_t mine = counts[size_t(rank_)];
  at::Tensor out = size_ == 1 ? whole.view({-1}) : at::empty({mine}, whole.options());
  PendingExchange::Work work;
  if (size_ > 1) {
    Gate gate(*this, "reduce_scatter_start", (whole.numel() - mine) * whole.element_size(),
              Gate::Kind::start);
    work = do_start_reduce_scatter(whole, out, counts);
  }
  return std::make_unique<PendingExchange>(*this, "reduce_scatter_wait", whole, std::move(out),
                                           std::move(work));
}

// Checks the arguments of an exchange; memory for what comes.
at::Tensor Communicator::checked_out(const at::Tensor& send, const Counts& send_counts,
                                     const Counts& recv_counts) {
  check_counts(*this, "all_to_all", send_counts);
  check_counts(*this, "all_to_all", recv_counts);
  check_flat(*this, "all_to_all", send, sum(send_counts));
  const auto me = size_t(rank_);
  require(send_counts[me] == recv_counts[me], "all_to_all on {}: sends itself {} elements and expects {}",
          name_, send_counts[me], recv_counts[me]);
  return size_ == 1 ? send.view({-1}) : exchange_buffer(sum(recv_counts), send.options());
}

at::Tensor Communicator::all_to_all(const at::Tensor& send, const Counts& send_counts,
                                    const Counts& recv_counts) {
  at::Tensor out = checked_out(send, send_counts, recv_counts);
  if (size_ == 1) return out;
  Gate gate(*this, "all_to_all", (send.numel() - send_counts[size_t(rank_)]) * send.element_size());
  do_all_to_all(send, out, send_counts, recv_counts);
  return out;
}

std::unique_ptr<PendingExchange> Communicator::start_all_to_all(const at::Tensor& send,
                                                                const Counts& send_counts,
                                                                const Counts& recv_counts) {
  at::Tensor out = checked_out(send, send_counts, recv_counts);
  PendingExchange::Work work;
  if (size_ > 1) {
    Gate gate(*this, "all_to_all_start", (send.numel() - send_counts[size_t(rank_)]) * send.element_size(),
              Gate::Kind::start);
    work = do_start_all_to_all(send, out, send_counts, recv_counts);
  }
  return std::make_unique<PendingExchange>(*this, "all_to_all_wait", send, std::move(out), std::move(work));
}

PendingExchange::Work Communicator::do_start_all_to_all(const at::Tensor& send, at::Tensor& out,
                                                        const Counts& send_counts,
                                                        const Counts& recv_counts) {
  do_all_to_all(send, out, send_counts, recv_counts);
  return {};
}

PendingExchange::Work Communicator::do_start_all_gather(const at::Tensor& mine, at::Tensor& out,
                                                        const Counts& recv) {
  do_all_gather(mine, out, recv);
  return {};
}

PendingExchange::Work Communicator::do_start_reduce_scatter(const at::Tensor& whole, at::Tensor& out,
                                                            const Counts& counts) {
  do_reduce_scatter(whole, out, counts);
  return {};
}

PendingExchange::PendingExchange(Communicator& comm, const char* wait_name, at::Tensor send, at::Tensor out,
                                 Work work)
    : comm_(comm),
      wait_name_(wait_name),
      send_(std::move(send)),
      out_(std::move(out)),
      work_(std::move(work)) {
  ++comm_.pending_;
}

PendingExchange::~PendingExchange() {
  if (out_.defined()) --comm_.pending_;
}

at::Tensor PendingExchange::wait() {
  require(out_.defined(), "an exchange on {}, rank {}, was waited for twice", comm_.name(), comm_.rank());
  if (work_) {
    Communicator::Gate gate(comm_, wait_name_, 0, Communicator::Gate::Kind::wait);
    std::exchange(work_, nullptr)();
  }
  send_.reset();
  --comm_.pending_;
  return std::move(out_);
}

void Communicator::broadcast(at::Tensor& tensor, int root) {
  require(root >= 0 && root < size_, "broadcast on {}: no rank {}", name_, root);
  check_flat(*this, "broadcast", tensor, tensor.numel());
  if (size_ == 1 || tensor.numel() == 0) return;
  Gate gate(*this, "broadcast", rank_ == root ? int64_t(tensor.nbytes()) * (size_ - 1) : 0);
  do_broadcast(tensor, root);
}

void Communicator::barrier() {
  if (size_ == 1) return;
  Gate gate(*this, "barrier", 0);
  do_barrier();
}

CommPtr Communicator::split(int color, int key, const std::string& name) {
  Gate gate(*this, "split", 0);
  return do_split(color, key, name);
}

std::unique_ptr<Mailbox> Communicator::do_open_mailbox(MailHandler) {
  fail(ExitCode::internal, "{} moves device data alone and has no mailbox", name_);
}

}  // namespace frameshard
