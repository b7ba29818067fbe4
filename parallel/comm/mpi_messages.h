// How tensors become messages of MPI: counts, types, host memory, and what is under way. For mpi.cpp.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include <mpi.h>

#include "parallel/comm/communicator.h"

namespace frameshard::mpi {

/// MPI's words for an error.
std::string error_text(int status);
/// 69 where `status` is one, with the operation, the group and the rank.
void check(int status, const char* operation, const Communicator& comm);

/// Of elements; a defect where MPI cannot count so many.
int to_int(int64_t count);
std::vector<int> to_ints(const std::vector<int64_t>& counts);

/// Moving needs the element's size alone.
MPI_Datatype moved_type(const at::Tensor& tensor);
/// What MPI can add up: 32 and 64 bits.
MPI_Datatype number_type(const at::Tensor& tensor);
MPI_Op mpi_op(ReduceOp op);
bool is_half(const at::Tensor& tensor);

/// A host view of a tensor: the tensor itself on a CPU, else pinned memory as large.
at::Tensor pinned_like(const at::Tensor& tensor);
/// The same with its values.
at::Tensor to_host(const at::Tensor& tensor);
void from_host(const at::Tensor& host, at::Tensor& tensor);

/// MPI counts in int: what is larger, as the average of a large model's weights, goes in pieces, for each of
/// which `call` gets memory and count.
template <class Call>
void in_pieces(const at::Tensor& host, const Call& call) {
  constexpr int64_t most = int64_t{1} << 30;
  auto* bytes = static_cast<char*>(host.data_ptr());
  for (int64_t begin = 0; begin < host.numel(); begin += most) {
    call(bytes + begin * host.element_size(), int(std::min(most, host.numel() - begin)));
  }
}

/// Which elements of a tensor go to, or come from, each rank.
struct Pieces {
  std::vector<int64_t> begins, counts;
};
Pieces one_after_another(const Counts& counts);
Pieces same_for_all(int64_t count, int ranks);

/// What is under way of one operation, and the memory that MPI reads and writes meanwhile.
class Messages {
 public:
  Messages(const Communicator& comm, const char* operation, at::Tensor from, at::Tensor to);
  Messages(const Messages&) = delete;
  Messages& operator=(const Messages&) = delete;
  ~Messages();

  MPI_Request* add() { return &requests_.emplace_back(MPI_REQUEST_NULL); }
  void finish();
  const char* operation() const { return operation_; }
  const at::Tensor& from() const { return from_; }
  const at::Tensor& to() const { return to_; }

 private:
  const Communicator& comm_;
  const char* operation_;
  at::Tensor from_, to_;
  std::vector<MPI_Request> requests_;
};

}  // namespace frameshard::mpi
