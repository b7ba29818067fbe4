// What comes before the first step: data, model, and where an earlier run stopped.
#include <ATen/Parallel.h>
#include <fmt/ranges.h>

#include "core/device.h"
#include "core/error.h"
#include "core/hash.h"
#include "core/host.h"
#include "core/io/atomic_file.h"
#include "core/io/json_file.h"
#include "core/io/run_directory.h"
#include "core/log.h"
#include "core/phase.h"
#include "core/progress.h"
#include "core/stop.h"
#include "launcher/devices.h"
#include "launcher/train/trainer.h"
#include "launcher/video_maker.h"
#include "models/training/initial_weights.h"
#include "models/training/rejections.h"
#include "parallel/comm/settle.h"
#include "parallel/comm/text.h"

namespace frameshard {

Trainer::Trainer(TrainJob& job, const PlanMachine& machine, const RankPlace& place, Communicator& world)
    : job_(job),
      machine_(machine),
      place_(place),
      device_(rank_device(job.run.config, place)),
      world_(world),
      shift_(job.config.noise.shift.value.value_or(job.run.checkpoint->flow_shift())) {
  set_phase("setup");
  stay_on_own_cpus(place, machine.threads_per_rank);
  at::set_num_threads(machine.threads_per_rank);
  use_device(device_);
  for (const std::string& line : device_lines(device_, world)) log::info("{}", line);
  if (job.draws_samples()) {
    drawer_.emplace(job.run, machine, place, device_, world);
    if (!job.config.train.text_encoder) drawer_->encode_prompts();
  }
  draw_class();
  read_data();
  load_model();
  resume();
}

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

void Trainer::plan_training() {
  facts_ = train_facts(job_, machine_, *data_.order, data_.items);
  plan_ = make_train_plan(job_.config, *facts_);
  if (!first()) return;
  log::print(describe(*plan_, job_.config, *facts_) + "\n");
  for (const std::string& warning : plan_->warnings) log::warning("{}", warning);
}

// Each has weights of its own, which nobody shares.
void Trainer::load_parts(at::ScalarType dtype) {
  const Checkpoint& checkpoint = *job_.run.checkpoint;
  const LoadOptions options{dtype, device_};
  auto begin = [&](const auto& part, int64_t number) {
    if (!job_.config.train.from_scratch) return;
    initialise_weights(part->weights(), dtype, device_,
                       sample_seed(uint64_t(job_.config.train.seed), number));
  };
  if (job_.config.trains_vae()) {
    vae_ = checkpoint.load_vae(options);
    begin(vae_, 0);
    return;
  }
  denoiser_ = checkpoint.load_denoiser(options);
  begin(denoiser_, 0);
  if (!job_.config.train.text_encoder) return;
  text_encoder_ = checkpoint.load_text_encoder(options);
  begin(text_encoder_, 1);
}

void Trainer::make_learner() {
  if (vae_) {
    learner_ = std::make_unique<VaeLearner>(job_.config, *vae_, device_);
    return;
  }
  learner_ = std::make_unique<DenoiserLearner>(
      job_.config, *denoiser_, text_encoder_.get(), facts_->model,
      TrainStep(*denoiser_, mesh_->cp(), *attention_, *blocks_, device_), shift_);
}

void Trainer::load_model() {
  plan_training();
  set_phase("load");
  Stopwatch watch;
  const auto dtype = training_dtype(job_, device_);
  load_parts(dtype);
  model_.emplace(trained_parts({denoiser_.get(), text_encoder_.get(), vae_.get()}, job_.config), job_, dtype);
  const GroupMaker maker = group_maker(machine_.backend, device_);
  mesh_.emplace(world_, plan_->mesh, maker);
  auto group_of_all = [&](const char* name) {
    CommPtr group = world_.split(0, world_.rank(), name);
    return group->size() > 1 ? maker(std::move(group)) : std::move(group);
  };
  gradients_ = group_of_all("gradients");
  gather_ = group_of_all("weights");
  std::vector<double> speeds;
  for (int i = 0; i < plan_->mesh.cp && !machine_.speeds.empty(); ++i) {
    speeds.push_back(machine_.speeds[size_t(mesh_->coord().dp * plan_->mesh.cp + i)]);
  }
  attention_.emplace(mesh_->cp(), AttentionShape{.ulysses = plan_->mesh.cp, .ring = 1},
                     ExchangeOverlap::automatic, speeds);
  parameters_.emplace(model_->parameters(), *gradients_, *gather_,
                      SyncOptions{.zero = plan_->zero,
                                  .bucket_bytes = int64_t(job_.config.parallel.bucket_megabytes * 1048576)});
  if (!job_.config.trains_adapter()) {
    const auto weights = parameters_->whole();  // a view of memory that is not there cannot be made
    model_->refresh_parts();
  }
  blocks_.emplace(BlockRunOptions{.recompute = plan_->recompute,
                                  .parameters = plan_->zero == 3 ? &*parameters_ : nullptr});
  if (plan_->zero == 3) {
    parameters_->gather(0);
    others_ = std::shared_ptr<void>(nullptr, [this](void*) { parameters_->release(0); });
  }
  make_learner();
  const bool half = dtype != at::kFloat;
  optimizer_.emplace(job_.config.optimizer,
                     !half                                        ? WeightPrecision::plain
                     : job_.config.train.precision == "bf16_pure" ? WeightPrecision::stochastic
                                                                  : WeightPrecision::master,
                     job_.config.train.ema, uint64_t(job_.config.train.seed));
  log::info("model loaded in {:.1f} s", watch.lap());
}

// What the numbers of samples and items mean.
std::string Trainer::identity() const {
  std::string text = job_.run.checkpoint->fingerprint();
  for (const Dataset* data : {job_.data.get(), job_.prior.get()}) text += data_identity(data);
  text += fmt::format("{}\n", fmt::join(data_.items, " "));
  text += fmt::format("{}\n", fmt::join(prior_ ? prior_->items : std::vector<size_t>(), " "));
  return fmt::format("{:016x}", fnv1a(text));
}

void Trainer::resume() {
  position_ = {.config_hash = config_hash(job_.config), .more = {{"identity", identity()}}};
  // Rank 0 chooses: another host may see another disk.
  const std::string newest =
      gather_texts(world_, first() ? newest_train_state(job_.directory / "state").string() : "").front();
  if (!newest.empty()) {
    position_ = load_train_state(newest, *parameters_, *optimizer_, world_);
    if (position_.more["identity"] != identity()) {
      fail(ExitCode::io,
           "{} was left by a training on other data or another model; restore them, or remove "
           "the run's directory to begin anew",
           newest);
    }
    if (position_.step > plan_->amount.steps()) {
      fail(ExitCode::config, "{} is a state after {} steps, and this training has {}; raise its limits",
           newest, position_.step, plan_->amount.steps());
    }
    if (first()) log::info("going on after step {} of {}", position_.step, plan_->amount.steps());
  }
  if (first()) {
    write_file_atomically(job_.directory / "train.yaml", dump_yaml(job_.config));
    log_.emplace(job_, plan_->amount, position_.step);
  }
  saved_at_ = process_seconds();
}

}  // namespace frameshard
