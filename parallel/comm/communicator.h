// An ordered group of ranks and its collectives. Never null: a group of one is valid and free.
// Tensors are flat and contiguous; counts are elements a rank. No dims, no heads, no autograd here (see
// collectives.h).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <ATen/ATen.h>

#include "parallel/comm/mailbox.h"

namespace frameshard {

enum class ReduceOp { sum, max, min };
using Counts = std::vector<int64_t>;

class Communicator;
using CommPtr = std::unique_ptr<Communicator>;

/// What a group has moved so far.
struct CommStats {
  int64_t calls = 0;
  int64_t bytes_sent = 0;  ///< to other ranks, by this rank
  double seconds = 0;      ///< inside collectives, waiting included; under NCCL until the work is enqueued
};

/// A collective that was started. Dropped without wait() only where this rank fails.
class PendingExchange {
 public:
  /// What wait() still has to do; empty where the backend was done at the start. Owns what it needs.
  using Work = std::function<void()>;

  /// `wait_name`: what traces call the wait; a literal.
  PendingExchange(Communicator& comm, const char* wait_name, at::Tensor send, at::Tensor out, Work work);
  PendingExchange(const PendingExchange&) = delete;
  PendingExchange& operator=(const PendingExchange&) = delete;
  ~PendingExchange();

  /// What the collective returns, for use on the current stream; once.
  at::Tensor wait();

 private:
  Communicator& comm_;
  const char* wait_name_;
  at::Tensor send_, out_;  // both in use until it has ended
  Work work_;
};

/// Every public operation goes through one gate: check the arguments, note what is running (for error
/// reports), time it, and call the backend's do_… of the same name. All ranks of the group must call it, in
/// the same order.
class Communicator {
 public:
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  const std::string& name() const { return name_; }  ///< "cp{0,1}"

  /// In place; the same bits on every rank.
  void all_reduce(at::Tensor& tensor, ReduceOp op = ReduceOp::sum);
  /// [recv[rank]] on each rank -> [sum(recv)] on all, in rank order.
  at::Tensor all_gather(const at::Tensor& mine, const Counts& recv);
  /// The same in place: `whole` [sum(recv)] has this rank's piece in it.
  void all_gather_in_place(at::Tensor& whole, const Counts& recv);
  /// [sum(counts)] on each rank -> this rank's [counts[rank]] of the sum over ranks.
  at::Tensor reduce_scatter(const at::Tensor& whole, const Counts& counts);
  /// send[j] elements to rank j, recv[i] elements from rank i; both in rank order. Zero counts move nothing.
  at::Tensor all_to_all(const at::Tensor& send, const Counts& send_counts, const Counts& recv_counts);
  /// The same, which may go on while this rank computes; `send` must not be changed before wait(). Until all
  /// that were started are waited for, the group has no other collective. Every rank starts the same ones in
  /// the same order.
  std::unique_ptr<PendingExchange> start_all_to_all(const at::Tensor& send, const Counts& send_counts,
                                                    const Counts& recv_counts);
  /// all_gather and reduce_scatter in two halves, by the same rules: `mine` and `whole` must not be changed
  /// before wait(), which returns what they return.
  std::unique_ptr<PendingExchange> start_all_gather(const at::Tensor& mine, const Counts& recv);
  std::unique_ptr<PendingExchange> start_reduce_scatter(const at::Tensor& whole, const Counts& counts);
  /// Whether what was started goes on beside computation without this rank's doing.
  virtual bool exchanges_beside_work() const { return false; }
  /// Uninitialised memory for what is sent by all_to_all, [elements]; where it moves faster from memory that
  /// the backend knows, such memory.
  virtual at::Tensor exchange_buffer(int64_t elements, const at::TensorOptions& options) {
    return at::empty({elements}, options);
  }
  void broadcast(at::Tensor& tensor, int root);
  /// Waiting here leaves the core to others.
  void barrier();

  /// The ranks of the same color, ordered by key; collective over this group.
  CommPtr split(int color, int key, const std::string& name);

  /// Questions from any rank to `handler`, which rank 0 gives (the others' is not used). Collective; a
  /// backend for devices alone has none.
  std::unique_ptr<Mailbox> open_mailbox(MailHandler handler) { return do_open_mailbox(std::move(handler)); }

  const CommStats& stats() const { return stats_; }

 protected:
  Communicator(int rank, int size, std::string name) : rank_(rank), size_(size), name_(std::move(name)) {}

  // Arguments are checked, and the group has at least two ranks (but for do_split).
  virtual void do_all_reduce(at::Tensor& tensor, ReduceOp op) = 0;
  /// `mine` may be this rank's piece of `out`.
  virtual void do_all_gather(const at::Tensor& mine, at::Tensor& out, const Counts& recv) = 0;
  virtual void do_reduce_scatter(const at::Tensor& whole, at::Tensor& out, const Counts& counts) = 0;
  virtual void do_all_to_all(const at::Tensor& send, at::Tensor& out, const Counts& send_counts,
                             const Counts& recv_counts) = 0;
  // Unless overridden: all of it at once.
  virtual PendingExchange::Work do_start_all_to_all(const at::Tensor& send, at::Tensor& out,
                                                    const Counts& send_counts, const Counts& recv_counts);
  virtual PendingExchange::Work do_start_all_gather(const at::Tensor& mine, at::Tensor& out,
                                                    const Counts& recv);
  virtual PendingExchange::Work do_start_reduce_scatter(const at::Tensor& whole, at::Tensor& out,
                                                        const Counts& counts);
  virtual void do_broadcast(at::Tensor& tensor, int root) = 0;
  virtual void do_barrier() = 0;
  virtual CommPtr do_split(int color, int key, const std::string& name) = 0;
  /// Unless overridden: fails with ExitCode::internal.
  virtual std::unique_ptr<Mailbox> do_open_mailbox(MailHandler handler);

 private:
  class Gate;
  friend class PendingExchange;
  at::Tensor checked_out(const at::Tensor& send, const Counts& send_counts, const Counts& recv_counts);

  int rank_, size_, pending_ = 0;
  std::string name_;
  CommStats stats_;
};

/// Offsets of consecutive pieces: {0, c0, c0+c1, …, total}.
std::vector<int64_t> offsets_of(const Counts& counts);

}  // namespace frameshard
