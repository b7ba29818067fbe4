// What comes before the first step: the model, and where an earlier run stopped.
#include <ATen/Parallel.h>
#include <fmt/ranges.h>

#include "core/device.h"
#include "core/error.h"
#include "core/hash.h"
#include "core/host.h"
#include "core/io/atomic_file.h"
#include "core/log.h"
#include "core/phase.h"
#include "core/stopwatch.h"
#include "launcher/devices.h"
#include "launcher/train/trainer.h"
#include "models/training/initial_weights.h"
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

void Trainer::plan_training() {
  facts_ = train_facts(job_, machine_, *data_.order, data_.items);
  plan_ = make_train_plan(job_.config, *facts_);
  if (!first()) return;
  log::print(describe(*plan_, job_.config, *facts_) + "\n");
  for (const std::string& warning : plan_->warnings) log::warning("{}", warning);
  const std::string unused = unused_gpu(job_.run.config, idle_cards());
  if (!unused.empty()) log::warning("{}", unused);
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
    const TrainAmount& amount = plan_->amount;
    const int64_t due =
        position_.step < amount.steps() ? amount.batch(position_.step).begin : amount.samples();
    if (position_.samples != due) {
      fail(ExitCode::config,
           "{} is a state after {} samples, and this training would go on behind sample {}; no sample may be "
           "left "
           "out: restore train.max_samples and train.global_batch, or begin anew with output.overwrite=true",
           newest, position_.samples, due);
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
