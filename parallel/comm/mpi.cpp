#include "parallel/comm/mpi.h"

#include <chrono>
#include <thread>

#include "core/error.h"
#include "parallel/comm/mpi_mailbox.h"
#include "parallel/comm/mpi_messages.h"

namespace frameshard {
namespace {

using namespace mpi;

class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator(MPI_Comm comm, int rank, int size, std::string name)
      : Communicator(rank, size, std::move(name)), comm_(comm) {}
  ~MpiCommunicator() override {
    int ended = 0;
    MPI_Finalized(&ended);
    if (!ended) MPI_Comm_free(&comm_);
  }

 private:
  void do_all_reduce(at::Tensor& tensor, ReduceOp op) override {
    // MPI knows no 16-bit floats; float32 sums are better anyway.
    at::Tensor host = is_half(tensor) ? tensor.to(at::kCPU, at::kFloat) : to_host(tensor);
    in_pieces(host, [&](void* values, int count) {
      check(MPI_Allreduce(MPI_IN_PLACE, values, count, number_type(host), mpi_op(op), comm_), "all_reduce",
            *this);
    });
    if (is_half(tensor)) {
      tensor.copy_(host);
    } else {
      from_host(host, tensor);
    }
  }

  void do_all_gather(const at::Tensor& mine, at::Tensor& out, const Counts& recv) override {
    const at::Tensor from = to_host(mine), to = pinned_like(out);
    const auto counts = to_ints(recv), begins = to_ints(offsets_of(recv));
    const bool in_place =
        from.data_ptr() == static_cast<char*>(to.data_ptr()) + begins[size_t(rank())] * to.element_size();
    check(MPI_Allgatherv(in_place ? MPI_IN_PLACE : from.data_ptr(), to_int(from.numel()), moved_type(from),
                         to.data_ptr(), counts.data(), begins.data(), moved_type(to), comm_),
          "all_gather", *this);
    from_host(to, out);
  }

  PendingExchange::Work do_start_all_gather(const at::Tensor& mine, at::Tensor& out,
                                            const Counts& recv) override {
    if (!mine.is_cpu()) return Communicator::do_start_all_gather(mine, out, recv);
    auto messages = start_messages(std::make_shared<Messages>(*this, "all_gather", mine, out),
                                   same_for_all(mine.numel(), size()), one_after_another(recv));
    return [messages] { messages->finish(); };
  }

  void do_reduce_scatter(const at::Tensor& whole, at::Tensor& out, const Counts& counts) override {
    const at::Tensor from = to_host(whole);
    at::Tensor to = pinned_like(out);
    start_sum(from, to, counts)();
    from_host(to, out);
  }

  PendingExchange::Work do_start_reduce_scatter(const at::Tensor& whole, at::Tensor& out,
                                                const Counts& counts) override {
    if (!whole.is_cpu()) return Communicator::do_start_reduce_scatter(whole, out, counts);
    return start_sum(whole, out, counts);
  }

  // Every rank is sent the pieces that it adds up. MPI_Reduce_scatter sends as much and adds as often, but on
  // one host it took 5 times as long for 100 MB (Open MPI 4.1), and it knows no 16-bit floats.
  PendingExchange::Work start_sum(const at::Tensor& whole, at::Tensor& out, const Counts& counts) {
    const auto me = size_t(rank());
    Counts to_others = counts, from_others(counts.size(), counts[me]);
    to_others[me] = from_others[me] = 0;
    const at::Tensor pieces = at::empty({counts[me] * (size() - 1)}, whole.options());
    const at::Tensor mine = whole.view({-1}).narrow(0, offsets_of(counts)[me], counts[me]);
    auto messages =
        start_messages(std::make_shared<Messages>(*this, "reduce_scatter", whole, pieces),
                       {.begins = offsets_of(counts), .counts = to_others}, one_after_another(from_others));
    return [this, messages, mine, pieces, out]() mutable {
      messages->finish();
      add_pieces(mine, pieces, out);
    };
  }

  // In the order of ranks, as the other backends do; 16-bit floats in float32, which is rounded once.
  void add_pieces(const at::Tensor& mine, const at::Tensor& others, at::Tensor& out) const {
    const auto piece = [&](int of) {
      if (of == rank()) return mine;
      return others.narrow(0, (of < rank() ? of : of - 1) * mine.numel(), mine.numel());
    };
    at::Tensor total =
        is_half(mine) ? at::add(piece(0).to(at::kFloat), piece(1)) : at::add_out(out, piece(0), piece(1));
    for (int i = 2; i < size(); ++i) total.add_(piece(i));
    if (is_half(mine)) out.copy_(total);
  }

  void do_all_to_all(const at::Tensor& send, at::Tensor& out, const Counts& send_counts,
                     const Counts& recv_counts) override {
    const at::Tensor from = to_host(send), to = pinned_like(out);
    start_exchange(from, to, send_counts, recv_counts)->finish();
    from_host(to, out);
  }

  // On host memory; what lies on a device is moved at once, since its copies would wait here anyway.
  PendingExchange::Work do_start_all_to_all(const at::Tensor& send, at::Tensor& out,
                                            const Counts& send_counts, const Counts& recv_counts) override {
    if (!send.is_cpu()) return Communicator::do_start_all_to_all(send, out, send_counts, recv_counts);
    return [messages = start_exchange(send, out, send_counts, recv_counts)] { messages->finish(); };
  }

  std::shared_ptr<Messages> start_exchange(const at::Tensor& from, const at::Tensor& to,
                                           const Counts& send_counts, const Counts& recv_counts) {
    return start_messages(std::make_shared<Messages>(*this, "all_to_all", from, to),
                          one_after_another(send_counts), one_after_another(recv_counts));
  }

  // Point to point: a ring's neighbours exchange through this too, and pairs with nothing to say send
  // nothing. Several may be under way: MPI keeps the order of messages between two ranks.
  std::shared_ptr<Messages> start_messages(std::shared_ptr<Messages> messages, const Pieces& send,
                                           const Pieces& recv) {
    const MPI_Datatype type = moved_type(messages->from());
    const int64_t each = messages->from().element_size();
    auto* source = static_cast<char*>(messages->from().data_ptr());
    auto* target = static_cast<char*>(messages->to().data_ptr());
    for (int step = 1; step < size();
         ++step) {  // nearest ranks first, so that not all write to rank 0 at once
      const auto peer = size_t((rank() - step + size()) % size());
      if (recv.counts[peer] == 0) continue;
      check(MPI_Irecv(target + recv.begins[peer] * each, to_int(recv.counts[peer]), type, int(peer), tag,
                      comm_, messages->add()),
            messages->operation(), *this);
    }
    for (int step = 1; step < size(); ++step) {
      const auto peer = size_t((rank() + step) % size());
      if (send.counts[peer] == 0) continue;
      check(MPI_Isend(source + send.begins[peer] * each, to_int(send.counts[peer]), type, int(peer), tag,
                      comm_, messages->add()),
            messages->operation(), *this);
    }
    const auto me = size_t(rank());
    if (send.counts[me] > 0) {
      std::memcpy(target + recv.begins[me] * each, source + send.begins[me] * each,
                  size_t(send.counts[me] * each));
    }
    return messages;
  }

  void do_broadcast(at::Tensor& tensor, int root) override {
    const at::Tensor host = rank() == root ? to_host(tensor) : pinned_like(tensor);
    in_pieces(host, [&](void* values, int count) {
      check(MPI_Bcast(values, count, moved_type(host), root, comm_), "broadcast", *this);
    });
    if (rank() != root) from_host(host, tensor);
  }

  // Ranks wait at a barrier while another one works for seconds (decoding): MPI_Barrier would keep their
  // cores busy.
  void do_barrier() override {
    MPI_Request request;
    check(MPI_Ibarrier(comm_, &request), "barrier", *this);
    int done = 0;
    for (int tries = 0; !done; ++tries) {
      check(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "barrier", *this);
      if (!done && tries > 100) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }

  CommPtr do_split(int color, int key, const std::string& name) override {
    MPI_Comm part;
    check(MPI_Comm_split(comm_, color, key, &part), "split", *this);
    CommPtr made = make_mpi_communicator(part, name);
    MPI_Comm_free(&part);
    return made;
  }

  std::unique_ptr<Mailbox> do_open_mailbox(MailHandler handler) override {
    return make_mpi_mailbox(comm_, name(), std::move(handler));
  }

  static constexpr int tag = 1;
  MPI_Comm comm_;
};

}  // namespace

CommPtr make_mpi_communicator(MPI_Comm comm, const std::string& name) {
  MPI_Comm own;
  int rank = 0, size = 1;
  if (MPI_Comm_dup(comm, &own) != MPI_SUCCESS) fail(ExitCode::unavailable, "MPI: duplicating a group failed");
  MPI_Comm_set_errhandler(own, MPI_ERRORS_RETURN);
  MPI_Comm_rank(own, &rank);
  MPI_Comm_size(own, &size);
  return std::make_unique<MpiCommunicator>(own, rank, size, name);
}

}  // namespace frameshard
