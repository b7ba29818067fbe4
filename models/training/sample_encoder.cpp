#include "models/training/sample_encoder.h"

#include <algorithm>
#include <numeric>
#include <set>

#include <c10/core/GradMode.h>

#include "core/device.h"
#include "core/io/run_directory.h"
#include "core/log.h"
#include "core/phase.h"
#include "core/text.h"
#include "models/common/text_rows.h"
#include "models/training/sample_file.h"
#include "parallel/comm/host_group.h"
#include "parallel/comm/settle.h"
#include "parallel/comm/text.h"

namespace frameshard {
namespace {

namespace fs = std::filesystem;

// Every size-th, from this rank's on.
std::vector<size_t> dealt(const std::vector<size_t>& numbers, const Communicator& team) {
  std::vector<size_t> mine;
  for (size_t i = size_t(team.rank()); i < numbers.size(); i += size_t(team.size()))
    mine.push_back(numbers[i]);
  return mine;
}

std::vector<size_t> those_of(const std::vector<size_t>& numbers, const std::vector<bool>& which) {
  std::vector<size_t> chosen;
  std::copy_if(numbers.begin(), numbers.end(), std::back_inserter(chosen),
               [&](size_t i) { return which[i]; });
  return chosen;
}

// Names are listed anew, not asked for one by one: network file systems remember for a while that a file was
// not there.
std::set<std::string> names_in(const fs::path& directory) {
  std::set<std::string> names;
  std::error_code error;  // one that is not there has none
  for (fs::directory_iterator at(directory, error), end; !error && at != end; at.increment(error))
    names.insert(at->path().filename().string());
  return names;
}

void prepare(const fs::path& directory) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) {
    fail(ExitCode::io, "{}: the folder of encoded samples cannot be made: {}; set data.cache",
         directory.string(), error.message());
  }
  prepare_output_directory(directory);  // it can be written to
}

// A damaged file is to be made again.
bool is_whole(const fs::path& file) {
  try {
    read_sample_file(file);
    return true;
  } catch (const std::exception& error) {
    log::warning("{}; it is made again", one_line(error.what(), 400));
    return false;
  }
}

}  // namespace

SampleEncoder::SampleEncoder(const Dataset& data, const Checkpoint& checkpoint, const StoreOptions& options,
                             Communicator& world)
    : data_(data),
      checkpoint_(checkpoint),
      options_(options),
      world_(world),
      host_(world.split(options.host, world.rank(), "host")),
      rejected_(options.fail_on_bad_item) {}

std::map<size_t, std::string> SampleEncoder::complete(const std::vector<SampleSource>& sources) {
  const c10::NoGradGuard no_grad;
  sources_ = sources;
  Numbers all(sources.size());
  std::iota(all.begin(), all.end(), 0);
  std::vector<bool> missing = missing_here(all);
  const Numbers wanted = those_of(all, on_any(missing, world_));
  if (wanted.empty()) return {};
  const bool writes = std::find(missing.begin(), missing.end(), true) != missing.end();
  settle(world_, [&] {
    if (writes && host_->rank() == 0) prepare(options_.directory);
  });
  make(wanted, missing, world_);
  if (!on_any(host_->size() < world_.size(), world_)) return rejected_.reasons();
  // What ranks of other hosts have made is here only where the hosts share the directory.
  missing = missing_here(wanted);
  for (const auto& [source, reason] : rejected_.reasons()) missing[source] = false;
  make(wanted, missing, *host_);
  return rejected_.reasons();
}

// Of all sources, whether its file is to be made on this host. Each of its ranks reads a part of those asked
// for.
std::vector<bool> SampleEncoder::missing_here(const Numbers& asked) {
  const std::set<std::string> names = names_in(options_.directory);
  std::vector<bool> missing(sources_.size(), false);
  for (size_t i : dealt(asked, *host_)) {
    const fs::path& file = sources_[i].file;
    missing[i] = !names.contains(file.filename().string()) || !is_whole(file);
  }
  return on_any(missing, *host_);
}

// Of the wanted files, dealt to the ranks of `team`, each makes those that are missing on its host.
void SampleEncoder::make(Numbers wanted, const std::vector<bool>& missing, Communicator& team) {
  // The largest first: ranks then do about equal work in each round.
  std::stable_sort(wanted.begin(), wanted.end(), [&](size_t a, size_t b) { return cost(a) > cost(b); });
  Numbers latents, texts;
  for (size_t i : wanted) (sources_[i].item ? latents : texts).push_back(i);
  latents = those_of(dealt(latents, team), missing);
  texts = those_of(dealt(texts, team), missing);
  done_ = total_ = 0;
  for (const auto& count : gather_numbers(world_, {double(latents.size() + texts.size())}))
    total_ += int64_t(count[0]);

  in_rounds(latents, [&](size_t i) { make_latents(i); });
  vae_.reset();
  release_cached_memory(options_.device);

  // On CPUs, ranks of a host hold one copy of the text encoder, which may be as large as the transformer.
  const auto sharing =
      HostSharing(options_.host, {}).among(world_, options_.device.is_cpu() && !texts.empty());
  text_load_ = {.dtype = options_.text_dtype, .device = options_.device, .host = sharing.get()};
  in_rounds(texts, [&](size_t i) { make_text(i); });
  text_encoder_.reset();
  release_cached_memory(options_.device);
  rejected_.exchange(world_);
}

int64_t SampleEncoder::cost(size_t source) const {
  if (!sources_[source].item) return int64_t(sources_[source].caption.size());
  const ClipSize& size = data_.items()[*sources_[source].item].size;
  return size.frames * size.height * size.width;
}

// All ranks make one file each, then learn how that went, and whether one of them was asked to stop.
void SampleEncoder::in_rounds(const Numbers& mine, const std::function<void(size_t)>& make_file) {
  const auto counts = gather_numbers(world_, {double(mine.size())});
  const auto most = std::max_element(counts.begin(), counts.end())->front();
  for (size_t round = 0; double(round) < most; ++round) {
    if (on_any(options_.stop_asked(), world_)) {
      fail(
          ExitCode::stopped,
          "stopped by a signal after {} of {} clips and captions were encoded; the same command goes on from "
          "here",
          done_, total_);
    }
    set_phase("encode", done_, total_);
    settle(world_, [&] {
      if (round < mine.size()) make_file(mine[round]);
    });
    for (const auto& count : counts) done_ += double(round) < count[0] ? 1 : 0;
    if (world_.rank() == 0 && options_.progress) options_.progress(done_, total_);
  }
}

void SampleEncoder::make_latents(size_t source) {
  const size_t item = *sources_[source].item;
  const auto frames = rejected_.frames(data_, item, source);
  if (!frames) return;
  if (!vae_) vae_ = checkpoint_.load_vae({.dtype = options_.vae_dtype, .device = options_.device});
  const at::Tensor mean = vae_->encode(frames->to(options_.device)).chunk(2, 1)[0];
  const at::Tensor latents = vae_->normalised(mean).to(at::kCPU, at::kFloat);
  if (!latents.isfinite().all().item<bool>()) {
    return rejected_.add(source, data_.items()[item], "its latents are not finite");
  }
  write_sample_file(sources_[source].file, latents);
}

// Without the padding, whose rows are 0.
void SampleEncoder::make_text(size_t source) {
  if (!text_encoder_) text_encoder_ = checkpoint_.load_text_encoder(text_load_);
  const std::string& caption = sources_[source].caption;
  const at::Tensor embedding =
      text_encoder_->encode(caption, options_.max_sequence_length).to(at::kCPU, options_.text_dtype);
  if (!embedding.isfinite().all().item<bool>()) {
    fail(ExitCode::not_finite, "the text encoder makes NaN or Inf of the caption {} in {}",
         quote_for_message(caption), c10::toString(options_.text_dtype));
  }
  write_sample_file(sources_[source].file, embedding.narrow(1, 0, used_rows(embedding)));
}

}  // namespace frameshard
