#include "parallel/comm/nccl.h"

#include <cstring>
#include <exception>

#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>
#include <nccl.h>

#include "core/error.h"
#include "parallel/comm/nccl_buffers.h"

namespace frameshard {
namespace {

void check(ncclResult_t status, const char* what, const std::string& group) {
  if (status == ncclSuccess) return;
  fail(ExitCode::unavailable, "NCCL: {} on {} failed: {} ({}); NCCL_DEBUG=INFO says more", what, group,
       ncclGetErrorString(status), ncclGetLastError(nullptr));
}

ncclDataType_t nccl_type(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return ncclFloat32;
    case at::kDouble:
      return ncclFloat64;
    case at::kHalf:
      return ncclFloat16;
    case at::kBFloat16:
      return ncclBfloat16;
    case at::kInt:
      return ncclInt32;
    case at::kLong:
      return ncclInt64;
    case at::kByte:
      return ncclUint8;
    case at::kChar:
      return ncclInt8;
    default:
      fail(ExitCode::internal, "NCCL: no type for {}", c10::toString(tensor.scalar_type()));
  }
}

ncclRedOp_t nccl_op(ReduceOp op) {
  return op == ReduceOp::sum ? ncclSum : op == ReduceOp::max ? ncclMax : ncclMin;
}

void check_cuda(cudaError_t status, const char* what) {
  if (status != cudaSuccess)
    fail(ExitCode::unavailable, "CUDA: {} failed: {}", what, cudaGetErrorString(status));
}

// A moment of one stream that another one waits for, without the host.
class StreamEvent {
 public:
  StreamEvent() { check_cuda(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "making an event"); }
  StreamEvent(const StreamEvent&) = delete;
  StreamEvent& operator=(const StreamEvent&) = delete;
  ~StreamEvent() { cudaEventDestroy(event_); }

  void record(cudaStream_t stream) { check_cuda(cudaEventRecord(event_, stream), "recording an event"); }
  void block(cudaStream_t stream) const {
    check_cuda(cudaStreamWaitEvent(stream, event_, 0), "waiting for an event");
  }

 private:
  cudaEvent_t event_ = nullptr;
};

// Work goes to the current stream, but for exchanges that are started: tensors made and used on it need no
// further synchronisation.
class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(CommPtr bootstrap, int device)
      : Communicator(bootstrap->rank(), bootstrap->size(), bootstrap->name()),
        bootstrap_(std::move(bootstrap)),
        device_(device),
        beside_(c10::cuda::getStreamFromPool(/*isHighPriority=*/true, c10::DeviceIndex(device))) {
    c10::cuda::set_device(c10::DeviceIndex(device_));
    ncclUniqueId id{};
    if (rank() == 0) check(ncclGetUniqueId(&id), "making an id", name());
    at::Tensor bytes = at::empty({int64_t(sizeof id)}, at::kByte);
    std::memcpy(bytes.data_ptr(), &id, sizeof id);
    bootstrap_->broadcast(bytes, 0);
    std::memcpy(&id, bytes.data_ptr(), sizeof id);
    check(ncclCommInitRank(&comm_, size(), id, rank()), "starting a group", name());
    buffers_ = std::make_shared<NcclBuffers>(comm_, name());
  }
  ~NcclCommunicator() override {
    // Destroying waits for the other ranks; a rank that fails alone must not.
    if (std::uncaught_exceptions() > 0) {
      ncclCommAbort(comm_);
      buffers_->forget();
    } else {
      buffers_->close();
      ncclCommDestroy(comm_);
    }
  }

  bool exchanges_beside_work() const override { return true; }
  at::Tensor exchange_buffer(int64_t elements, const at::TensorOptions& options) override {
    return buffers_->take(elements, options);
  }

 private:
  cudaStream_t stream() const { return c10::cuda::getCurrentCUDAStream(c10::DeviceIndex(device_)).stream(); }

  char* element_at(const at::Tensor& tensor, int64_t element) const {
    return static_cast<char*>(tensor.data_ptr()) + element * tensor.element_size();
  }

  void do_all_reduce(at::Tensor& tensor, ReduceOp op) override {
    check(ncclAllReduce(tensor.data_ptr(), tensor.data_ptr(), size_t(tensor.numel()), nccl_type(tensor),
                        nccl_op(op), comm_, stream()),
          "all_reduce", name());
  }

  void do_all_gather(const at::Tensor& mine, at::Tensor& out, const Counts& recv) override {
    gather(mine, out, recv, stream());
  }
  PendingExchange::Work do_start_all_gather(const at::Tensor& mine, at::Tensor& out,
                                            const Counts& recv) override {
    return start_beside([&](cudaStream_t on) { gather(mine, out, recv, on); });
  }

  void do_reduce_scatter(const at::Tensor& whole, at::Tensor& out, const Counts& counts) override {
    reduce(whole, out, counts, stream());
  }
  PendingExchange::Work do_start_reduce_scatter(const at::Tensor& whole, at::Tensor& out,
                                                const Counts& counts) override {
    return start_beside([&](cudaStream_t on) { reduce(whole, out, counts, on); });
  }

  void do_all_to_all(const at::Tensor& from, at::Tensor& out, const Counts& send_counts,
                     const Counts& recv_counts) override {
    exchange(from, out, send_counts, recv_counts, stream());
  }
  PendingExchange::Work do_start_all_to_all(const at::Tensor& from, at::Tensor& out,
                                            const Counts& send_counts, const Counts& recv_counts) override {
    return start_beside([&](cudaStream_t on) { exchange(from, out, send_counts, recv_counts, on); });
  }

  // On a stream of its own, between an event that it waits for and one that wait() makes the current stream
  // wait for. All tensors are held until then, so that their memory is used again only behind that event:
  // the allocator need not be told of the second stream.
  template <class Enqueue>
  PendingExchange::Work start_beside(const Enqueue& enqueue) {
    StreamEvent ready;
    ready.record(stream());
    ready.block(beside_.stream());
    enqueue(beside_.stream());
    auto done = std::make_shared<StreamEvent>();
    done->record(beside_.stream());
    return [this, done] { done->block(stream()); };
  }

  // Equal pieces have a collective of their own; unequal ones are point to point, as all_to_all is.
  void gather(const at::Tensor& mine, const at::Tensor& out, const Counts& recv, cudaStream_t on) {
    if (std::all_of(recv.begin(), recv.end(), [&](int64_t c) { return c == recv[0]; })) {
      return check(
          ncclAllGather(mine.data_ptr(), out.data_ptr(), size_t(mine.numel()), nccl_type(mine), comm_, on),
          "all_gather", name());
    }
    const auto begins = offsets_of(recv);
    const bool in_place = mine.data_ptr() == element_at(out, begins[size_t(rank())]);
    check(ncclGroupStart(), "all_gather", name());
    for (int peer = 0; peer < size(); ++peer) {
      if (in_place && peer == rank()) continue;
      send(mine, 0, mine.numel(), peer, on);
      receive(out, begins[size_t(peer)], recv[size_t(peer)], peer, on);
    }
    check(ncclGroupEnd(), "all_gather", name());
  }

  void reduce(const at::Tensor& whole, const at::Tensor& out, const Counts& counts, cudaStream_t on) {
    if (std::all_of(counts.begin(), counts.end(), [&](int64_t c) { return c == counts[0]; })) {
      return check(ncclReduceScatter(whole.data_ptr(), out.data_ptr(), size_t(out.numel()), nccl_type(whole),
                                     ncclSum, comm_, on),
                   "reduce_scatter", name());
    }
    const auto begins = offsets_of(counts);
    check(ncclGroupStart(), "reduce_scatter", name());
    for (int root = 0; root < size(); ++root) {
      check(ncclReduce(element_at(whole, begins[size_t(root)]), root == rank() ? out.data_ptr() : nullptr,
                       size_t(counts[size_t(root)]), nccl_type(whole), ncclSum, root, comm_, on),
            "reduce_scatter", name());
    }
    check(ncclGroupEnd(), "reduce_scatter", name());
  }

  void exchange(const at::Tensor& from, at::Tensor& out, const Counts& send_counts, const Counts& recv_counts,
                cudaStream_t on) {
    const auto send_at = offsets_of(send_counts), recv_at = offsets_of(recv_counts);
    check(ncclGroupStart(), "all_to_all", name());
    for (int peer = 0; peer < size(); ++peer) {
      const auto i = size_t(peer);
      send(from, send_at[i], send_counts[i], peer, on);
      receive(out, recv_at[i], recv_counts[i], peer, on);
    }
    check(ncclGroupEnd(), "all_to_all", name());
  }

  void do_broadcast(at::Tensor& tensor, int root) override {
    check(ncclBroadcast(tensor.data_ptr(), tensor.data_ptr(), size_t(tensor.numel()), nccl_type(tensor), root,
                        comm_, stream()),
          "broadcast", name());
  }

  void do_barrier() override { bootstrap_->barrier(); }

  CommPtr do_split(int color, int key, const std::string& name) override {
    return std::make_unique<NcclCommunicator>(bootstrap_->split(color, key, name), device_);
  }

  void send(const at::Tensor& from, int64_t begin, int64_t count, int peer, cudaStream_t on) {
    if (count == 0) return;
    check(ncclSend(element_at(from, begin), size_t(count), nccl_type(from), peer, comm_, on), "send", name());
  }
  void receive(const at::Tensor& to, int64_t begin, int64_t count, int peer, cudaStream_t on) {
    if (count == 0) return;
    check(ncclRecv(element_at(to, begin), size_t(count), nccl_type(to), peer, comm_, on), "receive", name());
  }

  CommPtr bootstrap_;
  int device_;
  ncclComm_t comm_ = nullptr;
  c10::cuda::CUDAStream beside_;  // before other work, so that it need not wait for room on the device
  std::shared_ptr<NcclBuffers> buffers_;
};

}  // namespace

extern "C" __attribute__((visibility("default"))) Communicator* frameshard_make_nccl(Communicator* bootstrap,
                                                                                     int device) {
  return new NcclCommunicator(CommPtr(bootstrap), device);
}

}  // namespace frameshard
