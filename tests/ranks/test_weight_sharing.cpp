// Weights that ranks of a host load together, against those that one rank loads alone.
#include <fstream>

#include "models/weight_sharing.h"
#include "parallel/comm/text.h"
#include "tests/support/rank_test.h"
#include "tests/support/scratch.h"

using namespace frameshard;
using namespace frameshard::testing;
using frameshard::test::Scratch;

namespace {

namespace fs = std::filesystem;

constexpr int layers = 9;

struct Model {
  std::vector<Linear> parts = std::vector<Linear>(layers);
  Linear both;
  WeightList list;

  Model() {
    for (int i = 0; i < layers; ++i) {
      list.add_layer(fmt::format("layer{}", i), {16 + i, 33}, parts[size_t(i)], /*keep_float32=*/i == 4);
    }
    list.stack({&parts[2], &parts[7]}, both);
  }
};

// A file of such weights in a directory that all ranks see; removed at the end.
class WeightFile {
 public:
  explicit WeightFile(Communicator& comm) : comm_(comm) {
    if (comm.rank() == 0) scratch_.emplace();
    file_ =
        fs::path(gather_texts(comm, scratch_ ? scratch_->path().string() : "").front()) / "model.safetensors";
    if (comm.rank() == 0) write_safetensors(file_, tensors());
    comm.barrier();
  }
  ~WeightFile() { comm_.barrier(); }
  WeightFile(const WeightFile&) = delete;
  WeightFile& operator=(const WeightFile&) = delete;

  const fs::path& path() const { return file_; }
  WeightFiles open() const { return WeightFiles::open(file_); }

 private:
  static NamedTensors tensors() {
    NamedTensors all;
    for (int i = 0; i < layers; ++i) {
      all.emplace_back(fmt::format("layer{}.weight", i),
                       (at::arange((16 + i) * 33, at::kFloat) / 7 + i).view({16 + i, 33}));
      all.emplace_back(fmt::format("layer{}.bias", i), at::arange(16 + i, at::kFloat) / 3 - i);
    }
    return all;
  }

  Communicator& comm_;
  std::optional<Scratch> scratch_;
  fs::path file_;
};

HostGroup group_of(Communicator& comm) {
  return {.ranks = comm.split(0, comm.rank(), "host"), .tensors = nullptr};
}

// The weights of both, bit for bit, and where a layer is part of a whole.
void check_same(const Model& got, const Model& wanted) {
  for (size_t i = 0; i < layers; ++i) {
    check(at::equal(got.parts[i].weight, wanted.parts[i].weight), fmt::format("weight {}", i));
    check(at::equal(got.parts[i].bias, wanted.parts[i].bias), fmt::format("bias {}", i));
    check(got.parts[i].weight.scalar_type() == wanted.parts[i].weight.scalar_type(),
          fmt::format("type {}", i));
  }
  check(at::equal(got.both.weight, wanted.both.weight), "the joined weight");
  check(got.parts[7].weight.is_alias_of(got.both.weight), "a part of the joined weight");
}

ExitCode code_of(const std::function<void()>& action, std::string& message) {
  try {
    action();
  } catch (const Error& error) {
    message = error.what();
    return error.code();
  }
  return ExitCode::ok;
}

}  // namespace

TEST_CASE("weights loaded together are those that one rank loads") {
  on_ranks({2, 3, 5}, [](Communicator& comm) {
    const WeightFile file(comm);
    for (at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      Model alone, together;
      load_weights(alone.list, file.open(), {dtype});
      const HostGroup host = group_of(comm);
      load_weights(together.list, file.open(), {dtype, at::kCPU, &host});
      check_same(together, alone);
    }
  });
}

TEST_CASE("the copies of all ranks are one") {
  on_ranks({2, 4}, [](Communicator& comm) {
    const auto memory = share_memory(comm, 4096, SharedMemory::open);
    check(memory != nullptr, "memory is shared");
    memory->data()[comm.rank()] = char(comm.rank() + 1);
    comm.barrier();
    for (int rank = 0; rank < comm.size(); ++rank) {
      check(memory->data()[rank] == rank + 1, fmt::format("what rank {} has written", rank));
    }
    comm.barrier();
  });
}

TEST_CASE("where one rank cannot open the memory, all load copies of their own") {
  on_ranks({2, 3}, [](Communicator& comm) {
    const WeightFile file(comm);
    const OpenSharedMemory open = [&](const std::string& address) {
      if (comm.rank() == comm.size() - 1) fail(ExitCode::unavailable, "not seen here");
      return SharedMemory::open(address);
    };
    check(share_memory(comm, 4096, open) == nullptr, "nobody shares");
    Model alone, together;
    load_weights(alone.list, file.open(), {});
    const HostGroup host = group_of(comm);
    load_weights_together(together.list, file.open(), {at::kFloat, at::kCPU, &host}, open);
    check_same(together, alone);
    together.parts[0].bias.fill_(comm.rank());  // not protected, and nobody else's
    comm.barrier();
    check(together.parts[0].bias.eq(comm.rank()).all().item<bool>(), "a copy of its own");
  });
}

TEST_CASE("memory that cannot be had is not shared") {
  on_ranks({2, 3}, [](Communicator& comm) {
    check(share_memory(comm, int64_t(1) << 62, SharedMemory::open) == nullptr, "nobody shares");
  });
}

TEST_CASE("a rank that cannot read makes all fail with its error") {
  on_ranks({2, 3, 4}, [](Communicator& comm) {
    const WeightFile file(comm);
    const WeightFiles files = file.open();
    comm.barrier();
    // The last tensors, which the last rank reads.
    if (comm.rank() == 0) fs::resize_file(file.path(), fs::file_size(file.path()) - 8);
    comm.barrier();
    Model model;
    const HostGroup host = group_of(comm);
    std::string message;
    const ExitCode code = code_of(
        [&] {
          load_weights(model.list, files, {at::kFloat, at::kCPU, &host});
        },
        message);
    check(code == ExitCode::bad_data, fmt::format("code {}", int(code)));
    check(message.find("truncated") != std::string::npos, message);
    const auto all = gather_texts(comm, message);
    check(std::all_of(all.begin(), all.end(), [&](auto& each) { return each == all[0]; }), "one message");
  });
}

TEST_CASE("ranks of a host form a group, but those that take no part") {
  on_ranks({4, 5}, [](Communicator& comm) {
    // Ranks 0, 1 and 2 on host 0, the others on host 1; rank 1 takes no part.
    const int host = comm.rank() < 3 ? 0 : 1;
    const auto group = HostSharing(host, {}).among(comm, comm.rank() != 1);
    const bool alone = comm.rank() == 1 || (comm.rank() == 3 && comm.size() == 4);
    check((group == nullptr) == alone, fmt::format("rank {} has a group: {}", comm.rank(), group != nullptr));
    if (!group) return;
    check(group->ranks->size() == 2, fmt::format("of {} ranks", group->ranks->size()));
    check(group->tensors == nullptr, "no devices");
    check(gather_texts(*group->ranks, std::to_string(host)).back() == std::to_string(host), "one host");
  });
}
