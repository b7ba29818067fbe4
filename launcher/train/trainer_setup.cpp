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
#include "launcher/devices.h"
#include "launcher/train/trainer.h"
#include "launcher/video_maker.h"
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
    drawer_->encode_prompts();
  }
  draw_class();
  encode_data();
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
  drawer.draw(*denoiser, folder, SampleDrawer::Preview::none);
}

void Trainer::encode_data() {
  const auto dtype = training_dtype(job_, device_);
  StoreOptions options{.directory = job_.config.data.cache,
                       .max_sequence_length = job_.config.data.max_sequence_length,
                       .vae_dtype = resolve_dtype(job_.config.model.vae_dtype, device_),
                       .text_dtype = dtype,
                       .device = device_,
                       .fail_on_bad_item = job_.config.train.fail_on_bad_item,
                       .empty_caption = job_.config.train.caption_dropout > 0,
                       .host = host_number(place_, world_)};
  std::vector<SkippedItem> skipped;
  auto encode = [&](const Dataset& data, const char* what, std::optional<SampleStore>& store) {
    set_phase(std::string("encode ") + what);
    std::optional<Progress> progress;
    int64_t shown = 0;
    options.progress = [&](int64_t done, int64_t total) {
      if (!progress) progress.emplace(std::string("encode ") + what, total, first());
      for (; shown < done; ++shown) progress->advance();
    };
    store.emplace(data, *job_.run.checkpoint, options, world_);
    for (const auto& list : {data.skipped(), store->skipped()})
      skipped.insert(skipped.end(), list.begin(), list.end());
  };
  auto usable = [](const Dataset& data, const SampleStore& store) {
    std::vector<size_t> items;
    for (size_t i = 0; i < data.items().size(); ++i) {
      if (store.usable(i)) items.push_back(i);
    }
    return items;
  };
  auto order = [&](const Dataset& data, const std::vector<size_t>& items) {
    std::vector<int64_t> repeats;
    for (size_t item : items) repeats.push_back(data.items()[item].repeats);
    return SampleOrder(repeats, uint64_t(job_.config.train.seed));
  };
  encode(*job_.data, "data", data_);
  items_ = usable(*job_.data, *data_);
  order_.emplace(order(*job_.data, items_));
  if (job_.prior) {
    encode(*job_.prior, "class", prior_);
    prior_items_ = usable(*job_.prior, *prior_);
    prior_order_.emplace(order(*job_.prior, prior_items_));
  }
  if (job_.validation) encode(*job_.validation, "validation", validation_);
  if (!first() || skipped.empty()) return;
  std::string lines;
  for (const SkippedItem& item : skipped)
    lines += Json{{"item", item.name}, {"reason", item.reason}}.dump() + "\n";
  write_file_atomically(job_.directory / "skipped.jsonl", lines);
  log::warning("{} item{} left out, the first: {}: {} (all in {})", skipped.size(),
               skipped.size() == 1 ? " is" : "s are", skipped.front().name, skipped.front().reason,
               (job_.directory / "skipped.jsonl").string());
}

void Trainer::plan_training() {
  facts_ = train_facts(job_, machine_, *order_, items_);
  plan_ = make_train_plan(job_.config, *facts_);
  if (!first()) return;
  log::print(describe(*plan_, job_.config, *facts_) + "\n");
  for (const std::string& warning : plan_->warnings) log::warning("{}", warning);
}

void Trainer::load_model() {
  plan_training();
  set_phase("load");
  Stopwatch watch;
  const auto dtype = training_dtype(job_, device_);
  denoiser_ = job_.run.checkpoint->load_denoiser({dtype, device_});
  if (job_.config.train.from_scratch) {
    randomize_weights(denoiser_->weights(), dtype, device_, uint64_t(job_.config.train.seed));
  }
  model_.emplace(*denoiser_, job_);
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
  step_.emplace(*denoiser_, mesh_->cp(), *attention_, *blocks_, device_);
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
  for (const auto* items : {&items_, &prior_items_}) text += fmt::format("{}\n", fmt::join(*items, " "));
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
