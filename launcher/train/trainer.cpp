#include "launcher/train/trainer.h"

#include <cmath>

#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
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

Trained Trainer::run() {
  const int64_t steps = plan_->amount.steps();
  for (int64_t step = position_.step; step < steps; ++step) {
    set_phase("train", step + 1, steps);
    one_step(step);
    after_step(step);
  }
  set_phase("write");
  write_result(job_.result());
  return {job_.result()};
}

std::vector<std::vector<int64_t>> Trainer::deal(const Batch& batch) const {
  std::vector<double> costs;
  for (int64_t sample = batch.begin; sample < batch.end; ++sample) {
    const ClipSize& size = job_.data->items()[items_[order_->item(sample)]].size;
    const auto tokens = denoiser_->token_count(denoiser_->latent_shape(size.frames, size.height, size.width));
    costs.push_back(denoiser_operations(facts_->model, tokens, tokens, facts_->text_tokens));
  }
  return deal_batch(costs, plan_->speeds);
}

// A subject's samples have one of its class beside each.
std::vector<Trainer::Pass> Trainer::passes_of(const Batch& batch, const std::vector<int64_t>& mine) const {
  std::vector<Pass> passes;
  const double share = 1.0 / double(batch.count());
  for (int64_t index : mine) {
    const int64_t sample = batch.begin + index;
    passes.push_back({&*data_, items_[order_->item(sample)], 2 * sample, share});
    if (!prior_) continue;
    passes.push_back({&*prior_, prior_items_[prior_order_->item(sample)], 2 * sample + 1,
                      share * job_.config.dreambooth.prior_loss_weight});
  }
  return passes;
}

TrainPass Trainer::prepared(const Pass& pass) const {
  const at::Tensor latents = pass.store->latents(pass.item);
  const SampleDraw draw = draw_sample(sample_seed(uint64_t(job_.config.train.seed), pass.sample),
                                      latents.sizes(), job_.config.noise, shift_);
  const bool dropped = draw.dropout < job_.config.train.caption_dropout;
  return {noised(latents, draw.level, draw.noise),
          dropped ? pass.store->empty_text() : pass.store->text(pass.item)};
}

// `idle` passes are made by other ranks: with ZeRO 3 the weights that they gather are partly here.
LevelLosses Trainer::compute(const std::vector<Pass>& passes, int64_t idle) {
  LevelLosses losses;
  for (int64_t i = 0; i < idle; ++i) blocks_->idle_pass();
  for (size_t i = 0; i < passes.size(); ++i) {
    if (i + 1 == passes.size()) parameters_->sum_next_backward();
    const TrainPass pass = prepared(passes[i]);
    const double loss = step_->backward(pass, passes[i].weight);
    if (passes[i].weight > 0 && passes[i].store == &*data_) losses.add(pass.sample.level, loss);
  }
  return losses;
}

LevelLosses Trainer::sum_over_ranks(const LevelLosses& mine) {
  at::Tensor numbers = at::zeros({2 * int64_t(LevelLosses::parts)}, at::kDouble);
  auto* data = numbers.data_ptr<double>();
  if (mesh_->coord().cp == 0) {  // all ranks of a sample have the same
    std::copy(mine.sums.begin(), mine.sums.end(), data);
    std::copy(mine.counts.begin(), mine.counts.end(), data + LevelLosses::parts);
  }
  world_.all_reduce(numbers);
  LevelLosses all;
  std::copy(data, data + LevelLosses::parts, all.sums.begin());
  std::copy(data + LevelLosses::parts, data + 2 * LevelLosses::parts, all.counts.begin());
  return all;
}

void Trainer::one_step(int64_t step) {
  Stopwatch watch;
  const double exchanged = exchange_seconds();
  const Batch batch = plan_->amount.batch(step);
  const auto dealt = deal(batch);
  std::vector<Pass> passes = passes_of(batch, dealt[size_t(mesh_->coord().dp)]);
  int64_t most = 0;
  for (const auto& each : dealt) most = std::max(most, int64_t(each.size()) * (prior_ ? 2 : 1));
  parameters_->begin_step();
  if (plan_->zero == 3 && passes.empty()) passes.push_back({&*data_, items_[0], 0, /*weight=*/0});
  const int64_t idle = plan_->zero == 3 ? most - int64_t(passes.size()) : 0;
  const LevelLosses mine = compute(passes, idle);
  parameters_->finish_gradients();  // before any other collective: ranks may have unequal numbers of passes
  const LevelLosses losses = sum_over_ranks(mine);
  const double norm = Optimizer::gradient_norm(parameters_->shards(), plan_->zero > 0, *gradients_);
  if (!std::isfinite(norm) || !std::isfinite(losses.mean())) {
    fail(ExitCode::not_finite,
         "step {}: the loss is {} and the gradient's length {}; the newest state stays as it is. A lower "
         "optimizer.learning_rate, a longer optimizer.warmup_samples or clean data are the usual cures",
         step + 1, losses.mean(), norm);
  }
  const double rate = learning_rate(job_.config.optimizer, batch.end, plan_->amount.samples());
  optimizer_->step(parameters_->shards(), rate, norm);
  parameters_->publish();
  synchronize(device_);
  position_.step = step + 1;
  position_.samples = batch.end;
  if (!first()) return;
  log_->step({.step = step + 1,
              .samples = batch.end,
              .epoch = double(batch.end) / double(order_->epoch_samples()),
              .loss = losses.mean(),
              .seconds = watch.lap(),
              .learning_rate = rate,
              .gradient_norm = norm,
              .batch = batch.count(),
              .exchange_seconds = exchange_seconds() - exchanged,
              .peak_bytes = peak_memory(device_),
              .levels = losses});
}

double Trainer::exchange_seconds() {
  return gradients_->stats().seconds + gather_->stats().seconds + mesh_->cp().stats().seconds +
         attention_->seconds();
}

bool Trainer::on_any_rank(bool mine) {
  at::Tensor flag = at::full({1}, int64_t(mine), at::kLong);
  world_.all_reduce(flag, ReduceOp::max);
  return flag.item<int64_t>() != 0;
}

void Trainer::after_step(int64_t step) {
  const CheckpointConfig& checkpoint = job_.config.checkpoint;
  const int64_t done = step + 1;
  const bool epoch = plan_->amount.ends_epoch(step), last = done == plan_->amount.steps();
  auto due = [&](const std::optional<int64_t>& every) { return every && done % *every == 0; };
  const bool stop = on_any_rank(stop_requested());
  const bool late =
      checkpoint.every_minutes && on_any_rank(process_seconds() - saved_at_ > 60 * *checkpoint.every_minutes);
  // The state first: whatever fails after it can be repeated.
  const bool save = due(checkpoint.every_steps) || (epoch && checkpoint.every_epoch) || late || stop;
  if (save && !last) save_state(done);
  if (stop && !last)
    fail(ExitCode::stopped, "stopped by a signal after step {}; the same command goes on from here", done);

  if (validation_ && (last || done % job_.config.validation.every_steps == 0)) validate(done);
  if (due(job_.config.sample.every_steps.value) && drawer_) {
    draw_samples(done, job_.directory / "samples" / fmt::format("step-{:08}", done));
  }
  if (epoch) end_epoch(step);
}

void Trainer::end_epoch(int64_t step) {
  const auto folder =
      job_.directory / "epochs" / fmt::format("epoch-{:04}", plan_->amount.epoch_of(step) + 1);
  const bool draws = drawer_ && job_.config.sample.every_steps.is_auto();
  if (!job_.config.checkpoint.every_epoch && !draws) return;
  if (first()) make_output_directory(folder);
  if (job_.config.checkpoint.every_epoch) write_result(folder / job_.result().filename());
  if (draws) draw_samples(step + 1, folder);
}

// Always the same noise: the loss of two models can be compared.
void Trainer::validate(int64_t step) {
  const c10::NoGradGuard no_grad;
  set_phase("validate");
  LevelLosses losses;
  const auto weights = parameters_->whole();
  const int64_t levels = job_.config.validation.levels, count = int64_t(job_.validation->items().size());
  for (int64_t i = 0; i < count * levels; ++i) {
    const auto item = size_t(i / levels);
    if (!validation_->usable(item) || i % plan_->mesh.dp != mesh_->coord().dp) continue;
    const at::Tensor latents = validation_->latents(item);
    const double level = (double(i % levels) + 0.5) / double(levels);
    const SampleDraw draw = draw_sample(sample_seed(0, i), latents.sizes(), job_.config.noise, shift_);
    losses.add(level, step_->loss({noised(latents, level, draw.noise), validation_->text(item)}));
  }
  losses = sum_over_ranks(losses);
  if (first()) log_->validation(step, losses);
}

void Trainer::draw_samples(int64_t step, const std::filesystem::path& directory) {
  const auto weights = parameters_->whole();
  const auto videos = drawer_->draw(*denoiser_, directory);
  if (first()) log_->samples(step, videos);
}

void Trainer::save_state(int64_t step) {
  set_phase("save", step, plan_->amount.steps());
  const auto states = job_.directory / "state";
  save_train_state(states, position_, *parameters_, *optimizer_, world_);
  if (first()) prune_train_states(states, job_.config.checkpoint.keep);
  saved_at_ = process_seconds();
}

// The average of the weights, where there is one, else the weights.
void Trainer::write_result(const std::filesystem::path& path) {
  const auto weights = parameters_->whole();
  at::Tensor average;
  if (job_.config.train.ema > 0) {
    average = at::zeros({parameters_->elements()}, at::TensorOptions().device(device_));
    const auto pieces = optimizer_->state(parameters_->shards()).at("ema");
    for (size_t i = 0; i < pieces.size(); ++i) {
      const ParameterShard& shard = parameters_->shards()[i];
      average.narrow(0, shard.begin, shard.end - shard.begin).copy_(pieces[i]);
    }
    if (plan_->zero > 0) gradients_->all_reduce(average);
  }
  if (first()) model_->write(path, average, job_);
  world_.barrier();
}

}  // namespace frameshard
