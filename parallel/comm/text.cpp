#include "parallel/comm/text.h"

#include <cstring>

#include "core/error.h"

namespace frameshard {

std::vector<std::string> gather_texts(Communicator& comm, const std::string& mine) {
  const auto ranks = size_t(comm.size());
  const at::Tensor length = at::full({1}, int64_t(mine.size()), at::kLong);
  const at::Tensor lengths = comm.all_gather(length, Counts(ranks, 1));
  const Counts counts(lengths.data_ptr<int64_t>(), lengths.data_ptr<int64_t>() + ranks);
  at::Tensor bytes = at::empty({int64_t(mine.size())}, at::kByte);
  if (!mine.empty()) std::memcpy(bytes.data_ptr(), mine.data(), mine.size());
  const at::Tensor all = comm.all_gather(bytes, counts);
  std::vector<std::string> texts;
  const char* at = static_cast<const char*>(all.data_ptr());
  for (int64_t count : counts) {
    texts.emplace_back(at, size_t(count));
    at += count;
  }
  return texts;
}

void check_same_text(Communicator& comm, const std::string& mine, const std::string& what) {
  const auto all = gather_texts(comm, mine);
  for (size_t rank = 1; rank < all.size(); ++rank) {
    if (all[rank] == all[0]) continue;
    fail(ExitCode::disagree, "ranks disagree on {}: rank 0 has {}, rank {} has {}; give all ranks the same",
         what, all[0], rank, all[rank]);
  }
}

std::vector<std::vector<double>> gather_numbers(Communicator& comm, const std::vector<double>& mine) {
  const auto count = int64_t(mine.size());
  at::Tensor values = at::empty({count}, at::kDouble);
  std::copy(mine.begin(), mine.end(), values.data_ptr<double>());
  const at::Tensor all = comm.all_gather(values, Counts(size_t(comm.size()), count));
  std::vector<std::vector<double>> result;
  const double* at = all.data_ptr<double>();
  for (int i = 0; i < comm.size(); ++i, at += count) result.emplace_back(at, at + count);
  return result;
}

int64_t reduce_number(Communicator& comm, int64_t mine, ReduceOp op) {
  at::Tensor number = at::full({1}, mine, at::kLong);
  comm.all_reduce(number, op);
  return number.item<int64_t>();
}

}  // namespace frameshard
