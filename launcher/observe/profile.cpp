#include "launcher/observe/profile.h"

#include <cstring>

#include "core/host.h"
#include "core/io/atomic_file.h"
#include "core/io/json_file.h"
#include "parallel/comm/text.h"

namespace frameshard {
namespace {

// Every rank's text on the first rank, nothing on the others: traces may be large.
std::vector<std::string> gather_to_first(Communicator& comm, const std::string& mine) {
  const auto ranks = size_t(comm.size());
  const bool first = comm.rank() == 0;
  std::vector<int64_t> lengths;
  for (const auto& length : gather_numbers(comm, {double(mine.size())})) {
    lengths.push_back(int64_t(length[0]));
  }
  Counts send(ranks, 0);
  send[0] = int64_t(mine.size());
  const Counts receive = first ? lengths : Counts(ranks, 0);
  at::Tensor bytes = at::empty({int64_t(mine.size())}, at::kByte);
  std::memcpy(bytes.data_ptr(), mine.data(), mine.size());
  const at::Tensor all = comm.all_to_all(bytes, send, receive);
  std::vector<std::string> texts;
  const char* from = static_cast<const char*>(all.data_ptr());
  for (size_t rank = 0; first && rank < ranks; from += lengths[rank++]) {
    texts.emplace_back(from, size_t(lengths[rank]));
  }
  return texts;
}

// What a reader of the file should know of its ranks; a row is world rank, clock error, spans left out.
std::string notes(const std::vector<std::vector<double>>& ranks) {
  Json json = {{"time", "microseconds of rank 0's clock since the recording began"},
               {"collectives", "from the call to its return; with NCCL until the work is enqueued"},
               {"clock_error_us", Json::object()},
               {"spans_left_out", Json::object()}};
  for (const auto& row : ranks) {
    const std::string rank = std::to_string(int(row[0]));
    json["clock_error_us"][rank] = row[1];
    if (row[2] > 0) json["spans_left_out"][rank] = int64_t(row[2]);
  }
  return json.dump();
}

}  // namespace

Profile::Profile(Communicator& world, const std::string& device) : clock_(measure_clock(world)) {
  at::Tensor start = at::full({1}, int64_t(steady_now().count()), at::kLong);
  world.broadcast(start, 0);
  process_ = {.rank = world.rank(),
              .name = fmt::format("rank {} (host {}, {})", world.rank(), host_name(), device),
              .to_axis = clock_.offset - std::chrono::nanoseconds(start.item<int64_t>())};
}

void Profile::write(Communicator& replica, const std::filesystem::path& directory) {
  auto recorded = recorder_.take();
  const double error = std::chrono::duration<double, std::micro>(clock_.error).count();
  const auto ranks = gather_numbers(replica, {double(process_.rank), error, double(recorded.left_out)});
  const auto events = gather_to_first(replica, trace_events(std::move(recorded.spans), process_));
  if (replica.rank() == 0) write_file_atomically(directory / "trace.json", trace_file(events, notes(ranks)));
}

}  // namespace frameshard
