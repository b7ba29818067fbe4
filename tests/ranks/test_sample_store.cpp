// Encoded samples that several ranks make together, against those that one rank makes alone.
#include <c10/core/GradMode.h>

#include "parallel/comm/self.h"
#include "tests/support/small_model.h"
#include "tests/support/small_store.h"

using namespace frameshard;
using namespace frameshard::testing;
using frameshard::test::Scratch;

namespace {

namespace fs = std::filesystem;

// The small model's folder, opened, from which no weights can be loaded any more.
class Unloadable {
 public:
  Unloadable() {
    write_random_folder(folder_.path(), {}, fs::path(FRAMESHARD_SOURCE_DIR) / "examples/shapes/tokenizer");
    checkpoint_ = open_checkpoint(folder_.path());
    fs::remove(folder_.path() / "vae/diffusion_pytorch_model.safetensors");
    fs::remove(folder_.path() / "text_encoder/model.safetensors");
  }
  const Checkpoint& checkpoint() const { return *checkpoint_; }

 private:
  Scratch folder_;
  CheckpointPtr checkpoint_;
};

}  // namespace

TEST_CASE("stored samples are what the VAE and the text encoder make of each item") {
  const SmallModel model;
  on_ranks({1, 3}, [&](Communicator& comm) {
    const c10::NoGradGuard no_grad;
    const SharedDirectory folder(comm);
    const NoiseClips data;
    const SampleStore store(data, model.checkpoint(), options_for(folder / "cache"), comm);
    check(store.skipped().empty(), "nothing is left out");
    const auto vae = model.checkpoint().load_vae({});
    const auto encoder = model.checkpoint().load_text_encoder({});
    for (size_t i = 0; i < clip_count; ++i) {
      check(store.usable(i), "usable");
      // The folder's latents_mean and latents_std.
      const at::Tensor mean = vae->encode(data.frames(i)).narrow(1, 0, 16);
      check_close(store.latents(i), (mean - 0.1) / 1.5, 1e-6, fmt::format("latents {}", i));
      check(at::equal(store.text(i), encoder->encode(data.items()[i].caption, 24)),
            fmt::format("text {}", i));
    }
    check(at::equal(store.empty_text(), encoder->encode("", 24)), "the empty caption");
    const at::Tensor frames = data.frames(2);
    check(store.latents(2).sizes() == at::IntArrayRef({1, 16, 3, 2, 4}), "shape of latents");
    check(store.text(2).sizes() == at::IntArrayRef({1, 24, 32}), "shape of a text");
  });
}

TEST_CASE("ranks make the files of one rank, and a second time nothing") {
  const SmallModel model;
  const Unloadable unloadable;
  on_ranks({1, 2, 3, 5}, [&](Communicator& comm) {
    const Scratch alone;
    const NoiseClips data;
    SampleStore(data, model.checkpoint(), options_for(alone.path()), *make_self_communicator());
    const SharedDirectory folder(comm);
    data.asked = 0;
    StoreOptions options = options_for(folder / "cache");
    std::vector<std::pair<int64_t, int64_t>> seen;
    options.progress = [&](int64_t done, int64_t total) { seen.emplace_back(done, total); };
    SampleStore(data, model.checkpoint(), options, comm);
    const auto files = contents_of(folder / "cache");
    check(files == contents_of(alone.path()), "the files of one rank");
    // Six clips that differ, six captions and the empty one.
    check(files.size() == 6 + 7, fmt::format("{} files", files.size()));
    check(sum_over(comm, data.asked) == 6, "each clip is decoded once");
    check(seen.empty() == (comm.rank() != 0), "progress on rank 0");
    if (comm.rank() == 0) check(seen.back() == std::pair<int64_t, int64_t>{13, 13}, "all are counted");

    // Nothing is loaded that is not needed: it could not be.
    SampleStore(data, unloadable.checkpoint(), options, comm);
    check(sum_over(comm, data.asked) == 6, "no clip is decoded again");
    folder.change([&] {
      fs::remove(folder / "cache" / with_prefix(files, "latents-").front());
      fs::remove(folder / "cache" / with_prefix(files, "text-").front());
    });
    SampleStore(data, comm.rank() == 0 ? model.checkpoint() : unloadable.checkpoint(), options, comm);
    check(contents_of(folder / "cache") == files, "the first rank has made what was missing");
  });
}

TEST_CASE("hosts with directories of their own each have all files") {
  const SmallModel model;
  on_ranks({2, 3, 5}, [&](Communicator& comm) {
    const SharedDirectory folder(comm);
    const NoiseClips data;
    StoreOptions options = options_for(folder / fmt::format("host{}", comm.rank() % 2));
    options.host = comm.rank() % 2;
    const SampleStore store(data, model.checkpoint(), options, comm);
    comm.barrier();
    const auto files = contents_of(folder / "host0");
    check(files.size() == 13, fmt::format("{} files", files.size()));
    check(contents_of(folder / "host1") == files, "the same on both hosts");
    check(sum_over(comm, data.asked) == 12, "each clip once a host");
    // One that is missing on one host is made there.
    folder.change([&] { fs::remove(folder / "host1" / files.begin()->first); });
    SampleStore(data, model.checkpoint(), options, comm);
    check(contents_of(folder / "host1") == files, "as before");
  });
}

TEST_CASE("hosts that share a directory make each file once") {
  const SmallModel model;
  on_ranks({2, 4}, [&](Communicator& comm) {
    const SharedDirectory folder(comm);
    const NoiseClips data;
    StoreOptions options = options_for(folder / "cache");
    options.host = comm.rank() % 2;
    SampleStore(data, model.checkpoint(), options, comm);
    check(sum_over(comm, data.asked) == 6, "each clip once");
  });
}

TEST_CASE("other weights, dtypes and lengths have other files") {
  const SmallModel model;
  on_ranks({1}, [&](Communicator& comm) {
    const Scratch other_folder;
    write_random_folder(other_folder.path(), {},
                        fs::path(FRAMESHARD_SOURCE_DIR) / "examples/shapes/tokenizer", 1);
    const auto other = open_checkpoint(other_folder.path());
    const SharedDirectory folder(comm);
    const fs::path cache = folder / "cache";
    const NoiseClips data;
    const auto files_after = [&](const Checkpoint& checkpoint, const StoreOptions& options) {
      SampleStore(data, checkpoint, options, comm);
      const auto files = contents_of(cache);
      return std::pair{with_prefix(files, "latents-").size(), with_prefix(files, "text-").size()};
    };
    using Files = std::pair<size_t, size_t>;
    StoreOptions options = options_for(cache);
    check(files_after(model.checkpoint(), options) == Files{6, 7}, "at first");
    options.max_sequence_length = 30;
    check(files_after(model.checkpoint(), options) == Files{6, 14}, "another length: texts");
    options.vae_dtype = at::kBFloat16;
    check(files_after(model.checkpoint(), options) == Files{12, 14}, "another dtype of the VAE: latents");
    options.text_dtype = at::kBFloat16;
    check(files_after(model.checkpoint(), options) == Files{12, 21}, "another dtype of the text encoder");
    check(files_after(*other, options) == Files{18, 28}, "other weights of the same shapes: both");
  });
}
