// Encoded samples where files are damaged, clips are corrupt or the work is interrupted.
#include "tests/support/expect_error.h"
#include "tests/support/small_model.h"
#include "tests/support/small_store.h"

using namespace frameshard;
using namespace frameshard::testing;

namespace {

namespace fs = std::filesystem;

// What a construction that fails says on this rank; all must say the same.
test::Caught failure_of_all(Communicator& comm, const Dataset& data, const Checkpoint& checkpoint,
                            const StoreOptions& options) {
  const test::Caught error = test::caught([&] { SampleStore(data, checkpoint, options, comm); });
  for (const std::string& each : gather_texts(comm, fmt::format("{} {}", int(error.code), error.message)))
    check(each == fmt::format("{} {}", int(error.code), error.message), "one error on all ranks: " + each);
  return error;
}

}  // namespace

TEST_CASE("damaged and missing files are made again, and no others") {
  const SmallModel model;
  on_ranks({1, 2, 3}, [&](Communicator& comm) {
    const SharedDirectory folder(comm);
    const fs::path cache = folder / "cache";
    const NoiseClips data;
    SampleStore(data, model.checkpoint(), options_for(cache), comm);
    const auto files = contents_of(cache);
    const auto latents = with_prefix(files, "latents-"), texts = with_prefix(files, "text-");
    folder.change([&] {
      fs::resize_file(cache / latents[0], fs::file_size(cache / latents[0]) - 1);
      flip_last_byte(cache / latents[1]);
      std::ofstream(cache / latents[2]) << "not a tensor";
      flip_last_byte(cache / texts[0]);
      fs::remove(cache / texts[1]);
    });
    data.asked = 0;
    SampleStore(data, model.checkpoint(), options_for(cache), comm);
    check(contents_of(cache) == files, "the files are as before");
    check(sum_over(comm, data.asked) == 3, "three clips are encoded again");
  });
}

TEST_CASE("a corrupt clip and one without finite latents are left out on all ranks") {
  const SmallModel model;
  on_ranks({1, 2, 3}, [&](Communicator& comm) {
    const SharedDirectory folder(comm);
    const NoiseClips data(2, 3);
    const SampleStore store(data, model.checkpoint(), options_for(folder / "cache"), comm);
    for (size_t i = 0; i < clip_count; ++i)  // 5 shows what 2 does
      check(store.usable(i) == (i != 2 && i != 3 && i != 5), fmt::format("usable {}", i));
    std::string names;
    for (const SkippedItem& item : store.skipped()) names += item.name + ": " + item.reason + "\n";
    check(names ==
              "clip 2: clip 2: truncated at byte 7\n"
              "clip 3: its latents are not finite\n"
              "clip 5: clip 2: truncated at byte 7\n",
          names);
    StoreOptions strict = options_for(folder / "cache");
    strict.fail_on_bad_item = true;
    const test::Caught error = failure_of_all(comm, data, model.checkpoint(), strict);
    check(error.code == ExitCode::bad_data && error.has("train.fail_on_bad_item=false"), error.message);
  });
}

TEST_CASE("one rank that is asked to stop ends all, and a new run goes on") {
  const SmallModel model;
  on_ranks({1, 2, 3}, [&](Communicator& comm) {
    const SharedDirectory folder(comm);
    const NoiseClips data;
    StoreOptions options = options_for(folder / "cache");
    options.stop_asked = [&, rounds = 0]() mutable {
      return comm.rank() == comm.size() - 1 && ++rounds == 2;
    };
    const test::Caught error = failure_of_all(comm, data, model.checkpoint(), options);
    check(error.code == ExitCode::stopped, error.message);
    check(error.has(fmt::format("after {} of 13", comm.size())), error.message);
    check(int(contents_of(folder / "cache").size()) == comm.size(), "a file a rank is there");
    comm.barrier();
    SampleStore(data, model.checkpoint(), options_for(folder / "cache"), comm);
    check(sum_over(comm, data.asked) == 6, "no clip is encoded twice");
  });
}

TEST_CASE("a directory that cannot be made is one error on all ranks") {
  const SmallModel model;
  on_ranks({1, 2, 3}, [&](Communicator& comm) {
    const SharedDirectory folder(comm);
    folder.change([&] { std::ofstream(folder / "file") << "x"; });
    const test::Caught error =
        failure_of_all(comm, NoiseClips(), model.checkpoint(), options_for(folder / "file" / "cache"));
    check(error.code == ExitCode::io && error.has("set data.cache"), error.message);
  });
}

TEST_CASE("a file that is damaged while it is in use says what to do") {
  const SmallModel model;
  on_ranks({1}, [&](Communicator& comm) {
    const SharedDirectory folder(comm);
    const NoiseClips data;
    const SampleStore store(data, model.checkpoint(), options_for(folder / "cache"), comm);
    for (const auto& [name, content] : contents_of(folder / "cache")) flip_last_byte(folder / "cache" / name);
    for (const auto& read : std::initializer_list<std::function<void()>>{
             [&] { store.latents(0); }, [&] { store.text(0); }, [&] { store.empty_text(); }}) {
      const test::Caught error = test::caught(read);
      check(error.code == ExitCode::bad_data && error.has("start again"), error.message);
    }
  });
}
