#include "parallel/comm/mpi_messages.h"

#include <climits>

#include "core/error.h"

namespace frameshard::mpi {

std::string error_text(int status) {
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(status, text, &length);
  return {text, size_t(length)};
}

void check(int status, const char* operation, const Communicator& comm) {
  if (status == MPI_SUCCESS) return;
  fail(ExitCode::unavailable, "MPI: {} on {} failed on rank {} of {}: {}", operation, comm.name(),
       comm.rank(), comm.size(), error_text(status));
}

int to_int(int64_t count) {
  require(count <= INT_MAX, "a message of {} elements to one rank; MPI moves at most {}", count, INT_MAX);
  return int(count);
}

std::vector<int> to_ints(const std::vector<int64_t>& counts) {
  std::vector<int> result;
  for (int64_t count : counts) result.push_back(to_int(count));
  return result;
}

MPI_Datatype moved_type(const at::Tensor& tensor) {
  switch (tensor.element_size()) {
    case 1:
      return MPI_BYTE;
    case 2:
      return MPI_UINT16_T;
    case 4:
      return MPI_UINT32_T;
    case 8:
      return MPI_UINT64_T;
    case 16:
      return MPI_C_DOUBLE_COMPLEX;
    default:
      fail(ExitCode::internal, "MPI: no type for {}", c10::toString(tensor.scalar_type()));
  }
}

MPI_Datatype number_type(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return MPI_FLOAT;
    case at::kDouble:
      return MPI_DOUBLE;
    case at::kInt:
      return MPI_INT32_T;
    case at::kLong:
      return MPI_INT64_T;
    default:
      fail(ExitCode::internal, "MPI: cannot reduce {}", c10::toString(tensor.scalar_type()));
  }
}

bool is_half(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kBFloat16 || tensor.scalar_type() == at::kHalf;
}

MPI_Op mpi_op(ReduceOp op) {
  return op == ReduceOp::sum ? MPI_SUM : op == ReduceOp::max ? MPI_MAX : MPI_MIN;
}

at::Tensor pinned_like(const at::Tensor& tensor) {
  if (tensor.is_cpu()) return tensor;
  return at::empty(tensor.sizes(), tensor.options().device(at::kCPU).pinned_memory(true));
}

at::Tensor to_host(const at::Tensor& tensor) {
  if (tensor.is_cpu()) return tensor;
  at::Tensor host = pinned_like(tensor);
  host.copy_(tensor);
  return host;
}

void from_host(const at::Tensor& host, at::Tensor& tensor) {
  if (!tensor.is_cpu()) tensor.copy_(host);
}

Pieces one_after_another(const Counts& counts) {
  return {offsets_of(counts), counts};
}

Pieces same_for_all(int64_t count, int ranks) {
  return {Counts(size_t(ranks), 0), Counts(size_t(ranks), count)};
}

Messages::Messages(const Communicator& comm, const char* operation, at::Tensor from, at::Tensor to)
    : comm_(comm), operation_(operation), from_(std::move(from)), to_(std::move(to)) {}

// A rank that fails meanwhile must not wait for the others; MPI may still write, so the memory stays.
Messages::~Messages() {
  if (!requests_.empty()) new std::vector<at::Tensor>{from_, to_};
}

void Messages::finish() {
  check(MPI_Waitall(int(requests_.size()), requests_.data(), MPI_STATUSES_IGNORE), operation_, comm_);
  requests_.clear();
}

}  // namespace frameshard::mpi
