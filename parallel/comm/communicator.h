// An ordered group of ranks and its collectives. Never null: a group of one is valid and free.
// Tensors are flat and contiguous; counts are elements a rank. No dims, no heads, no autograd here (see
// collectives.h).
#pragma once

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
  /// [sum(counts)] on each rank -> this rank's [counts[rank]] of the sum over ranks.
  at::Tensor reduce_scatter(const at::Tensor& whole, const Counts& counts);
  /// send[j] elements to rank j, recv[i] elements from rank i; both in rank order. Zero counts move nothing.
  at::Tensor all_to_all(const at::Tensor& send, const Counts& send_counts, const Counts& recv_counts);
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
  virtual void do_all_gather(const at::Tensor& mine, at::Tensor& out, const Counts& recv) = 0;
  virtual void do_reduce_scatter(const at::Tensor& whole, at::Tensor& out, const Counts& counts) = 0;
  virtual void do_all_to_all(const at::Tensor& send, at::Tensor& out, const Counts& send_counts,
                             const Counts& recv_counts) = 0;
  virtual void do_broadcast(at::Tensor& tensor, int root) = 0;
  virtual void do_barrier() = 0;
  virtual CommPtr do_split(int color, int key, const std::string& name) = 0;
  /// Unless overridden: fails with ExitCode::internal.
  virtual std::unique_ptr<Mailbox> do_open_mailbox(MailHandler handler);

 private:
  class Gate;

  int rank_, size_;
  std::string name_;
  CommStats stats_;
};

/// Offsets of consecutive pieces: {0, c0, c0+c1, …, total}.
std::vector<int64_t> offsets_of(const Counts& counts);

}  // namespace frameshard
