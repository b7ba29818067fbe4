// What is trained on, before the first step: items of a class drawn, clips encoded or checked, bad ones left
// out.
#include "core/device.h"
#include "core/error.h"
#include "core/hash.h"
#include "core/io/atomic_file.h"
#include "core/io/json_file.h"
#include "core/io/run_directory.h"
#include "core/log.h"
#include "core/phase.h"
#include "core/progress.h"
#include "core/stop.h"
#include "launcher/train/trainer.h"
#include "models/training/rejections.h"
#include "parallel/comm/settle.h"
#include "parallel/comm/text.h"

namespace frameshard {

// The class of a subject, as the model draws it before it is trained. In a folder named after what determines
// it.
void Trainer::draw_class() {
  const DreamboothConfig& dreambooth = job_.config.dreambooth;
  if (job_.config.train.method != "dreambooth" || job_.prior || dreambooth.prior_loss_weight == 0) return;
  std::vector<RequestConfig> wanted;
  std::string identity = job_.run.checkpoint->fingerprint();
  for (int64_t i = 0; i < dreambooth.class_items; ++i) {
    RequestConfig request = job_.run.requests.front();
    request.id = fmt::format("{:04}", i);
    request.prompt = dreambooth.class_prompt;
    request.seed = job_.config.train.seed + i;
    wanted.push_back(request);
  }
  RunConfig one = job_.run.config;
  one.requests.clear();
  one.request = wanted.front();
  const auto folder = job_.directory / "class" / fmt::format("{:016x}", fnv1a(identity + config_hash(one)));
  draw_missing(wanted, folder);
  settle(world_, [&] {
    job_.prior = open_folder(folder, job_.config.data,
                             {.prior = true,
                              .caption = dreambooth.class_prompt,
                              .most_items = dreambooth.class_items,
                              .fail_on_bad_item = job_.config.train.fail_on_bad_item});
  });
  check_same_text(world_, data_identity(job_.prior.get()), "the items of the class");
}

// Rank 0 looks what is there: others may see another disk.
void Trainer::draw_missing(const std::vector<RequestConfig>& wanted, const std::filesystem::path& folder) {
  at::Tensor missing = at::zeros({int64_t(wanted.size())}, at::kLong);
  for (size_t i = 0; i < wanted.size(); ++i) {
    missing[int64_t(i)] = int64_t(!has_complete_output(folder / wanted[i].id));
  }
  world_.broadcast(missing, 0);
  Job drawn{.config = job_.run.config};
  drawn.config.request.reset();
  drawn.config.requests.clear();
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (missing[int64_t(i)].item<int64_t>() != 0) drawn.config.requests.push_back(wanted[i]);
  }
  if (drawn.config.requests.empty()) return;
  drawn.requests = drawn.config.requests;
  drawn.checkpoint = open_checkpoint(job_.config.model.path);
  if (first()) log::info("drawing {} items of the class \"{}\"", wanted.size(), wanted.front().prompt);
  SampleDrawer drawer(drawn, machine_, place_, device_, world_);
  drawer.encode_prompts();
  const auto denoiser = drawn.checkpoint->load_denoiser({training_dtype(job_, device_), device_});
  if (drawer.draw(*denoiser, folder, SampleDrawer::Preview::none)) return;
  fail(
      ExitCode::stopped,
      "stopped by a signal while items of the class were drawn; the same command goes on with those that are "
      "missing");
}

SampleStore Trainer::encode(const Dataset& data, const char* what) {
  const auto dtype = training_dtype(job_, device_);
  std::optional<Progress> progress;
  int64_t shown = 0;
  const StoreOptions options{.directory = job_.config.data.cache,
                             .max_sequence_length = job_.config.data.max_sequence_length,
                             .vae_dtype = resolve_dtype(job_.config.model.vae_dtype, device_),
                             .text_dtype = dtype,
                             .device = device_,
                             .fail_on_bad_item = job_.config.train.fail_on_bad_item,
                             .captions = !job_.config.train.text_encoder,
                             .empty_caption = job_.config.train.caption_dropout > 0,
                             .progress =
                                 [&](int64_t done, int64_t total) {
                                   if (!progress)
                                     progress.emplace(std::string("encode ") + what, total, first());
                                   for (; shown < done; ++shown) progress->advance();
                                 },
                             .host = host_number(place_, world_)};
  return {data, *job_.run.checkpoint, options, world_};
}

// An autoencoder reads clips at each step: one that cannot be read is found before the first. By item why.
std::map<size_t, std::string> Trainer::check_frames(const Dataset& data, const char* what) {
  if (!data.reads_files()) return {};
  const auto all = int64_t(data.items().size());
  Progress progress(std::string("check ") + what, all, first());
  Rejections rejected(job_.config.train.fail_on_bad_item);
  for (int64_t begin = 0; begin < all; begin += world_.size()) {
    if (on_any(stop_requested(), world_)) {
      fail(ExitCode::stopped,
           "stopped by a signal after {} of {} clips were checked; nothing was trained yet", begin, all);
    }
    settle(world_, [&] {
      const auto item = size_t(begin + world_.rank());
      if (item < data.items().size()) rejected.frames(data, item, item);
    });
    for (int64_t i = begin; i < std::min(begin + world_.size(), all); ++i) progress.advance();
  }
  rejected.exchange(world_);
  return rejected.reasons();
}

Trainer::Data Trainer::read(const Dataset& data, const char* what, std::vector<SkippedItem>& skipped) {
  Data read{.all = &data};
  skipped.insert(skipped.end(), data.skipped().begin(), data.skipped().end());
  std::map<size_t, std::string> unreadable;
  if (job_.config.trains_vae()) {
    set_phase(std::string("check ") + what);
    unreadable = check_frames(data, what);
  } else {
    set_phase(std::string("encode ") + what);
    read.store.emplace(encode(data, what));
    skipped.insert(skipped.end(), read.store->skipped().begin(), read.store->skipped().end());
  }
  for (size_t i = 0; i < data.items().size(); ++i) {
    if (const auto reason = unreadable.find(i); reason != unreadable.end()) {
      skipped.push_back({data.items()[i].name, reason->second});
    } else if (!read.store || read.store->usable(i)) {
      read.items.push_back(i);
    }
  }
  if (read.items.empty()) {
    fail(ExitCode::bad_data, "none of the {} items of the {} can be used, the first because of this: {}: {}",
         data.items().size(), what, skipped.back().name, skipped.back().reason);
  }
  return read;
}

void Trainer::read_data() {
  auto order = [&](Data& data) {
    std::vector<int64_t> repeats;
    for (size_t item : data.items) repeats.push_back(data.all->items()[item].repeats);
    data.order.emplace(repeats, uint64_t(job_.config.train.seed));
  };
  std::vector<SkippedItem> skipped;
  data_ = read(*job_.data, "data", skipped);
  order(data_);
  if (job_.prior) {
    prior_ = read(*job_.prior, "class", skipped);
    order(*prior_);
  }
  if (job_.validation) validation_ = read(*job_.validation, "validation", skipped);
  if (first() && !skipped.empty()) note_skipped(skipped);
}

void Trainer::note_skipped(const std::vector<SkippedItem>& skipped) {
  std::string lines;
  for (const SkippedItem& item : skipped)
    lines += Json{{"item", item.name}, {"reason", item.reason}}.dump() + "\n";
  write_file_atomically(job_.directory / "skipped.jsonl", lines);
  log::warning("{} item{} left out, the first: {}: {} (all in {})", skipped.size(),
               skipped.size() == 1 ? " is" : "s are", skipped.front().name, skipped.front().reason,
               (job_.directory / "skipped.jsonl").string());
}

}  // namespace frameshard
