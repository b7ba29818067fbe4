// One rank of a training run: data encoded, model loaded, and step after step to the end.
#pragma once

#include "launcher/train/learner.h"
#include "launcher/train/sample_drawer.h"
#include "launcher/train/train_log.h"
#include "launcher/train/train_plan.h"
#include "launcher/train/trained_model.h"
#include "models/training/block_runner.h"
#include "models/training/optimizer.h"
#include "models/training/sample_store.h"
#include "models/training/train_state.h"
#include "models/training/train_step.h"

namespace frameshard {

/// How a training ended.
struct Trained {
  std::filesystem::path result;  ///< that rank 0 wrote
};

class Trainer {
 public:
  /// Collective over `world`. `job.prior` is made where the class is drawn by the model.
  Trainer(TrainJob& job, const PlanMachine& machine, const RankPlace& place, Communicator& world);

  /// Collective. 80 at a loss or gradient that is not finite, 75 where a signal stopped it (its state is
  /// saved).
  Trained run();

 private:
  /// One of the data sets, and its items that are usable: what an order's numbers mean.
  struct Data {
    const Dataset* all = nullptr;
    std::optional<SampleStore> store{};  ///< none for an autoencoder
    std::vector<size_t> items{};
    std::optional<SampleOrder> order{};
    SamplePass pass(size_t item, int64_t sample, double weight) const {
      return {all, store ? &*store : nullptr, item, sample, weight};
    }
  };

  void read_data();
  Data read(const Dataset& data, const char* what, std::vector<SkippedItem>& skipped);
  SampleStore encode(const Dataset& data, const char* what);
  std::map<size_t, std::string> check_frames(const Dataset& data, const char* what);
  void note_skipped(const std::vector<SkippedItem>& skipped);
  void draw_class();
  void draw_missing(const std::vector<RequestConfig>& wanted, const std::filesystem::path& folder);
  void plan_training();
  void load_model();
  void load_parts(at::ScalarType dtype);
  void make_learner();
  void resume();
  void one_step(int64_t step);
  std::vector<std::vector<int64_t>> deal(const Batch& batch) const;
  using Passes = std::vector<SamplePass>;  // that are computed at once
  std::vector<Passes> passes_of(const Batch& batch, const std::vector<int64_t>& mine) const;
  LossSums compute(const std::vector<Passes>& groups, int64_t idle);
  LossSums sum_over_ranks(const LossSums& mine);
  std::string identity() const;
  void after_step(int64_t step);
  void events(int64_t step);
  void assign(const at::Tensor& flat);
  [[noreturn]] void stop(int64_t step);
  void end_epoch(int64_t step);
  void validate(int64_t step);
  void draw_samples(int64_t step, const std::filesystem::path& directory);
  void save_state(int64_t step);
  void save_last_state(int64_t step);
  void write_result(const std::filesystem::path& path);
  std::map<std::string, Json> latent_settings(const at::Tensor& average);
  double exchange_seconds();
  bool first() const { return world_.rank() == 0; }

  TrainJob& job_;
  PlanMachine machine_;
  const RankPlace& place_;
  at::Device device_;
  Communicator& world_;
  double shift_;  // of noise levels
  Data data_;
  std::optional<Data> prior_, validation_;
  std::optional<TrainFacts> facts_;
  std::optional<TrainPlan> plan_;
  std::optional<ProcessMesh> mesh_;
  CommPtr gradients_, gather_;
  std::optional<AttentionStrategy> attention_;
  std::unique_ptr<Denoiser> denoiser_;         // or a VAE
  std::shared_ptr<TextEncoder> text_encoder_;  // where it is trained
  std::unique_ptr<Vae> vae_;
  std::optional<TrainedModel> model_;
  std::optional<TrainedParameters> parameters_;
  std::shared_ptr<void> others_;  // ZeRO 3: unit 0 stays whole
  std::optional<TrainingBlocks> blocks_;
  std::unique_ptr<Learner> learner_;
  std::optional<Optimizer> optimizer_;
  std::optional<SampleDrawer> drawer_;
  std::optional<TrainLog> log_;
  TrainPosition position_;
  double saved_at_ = 0;  // process seconds
  int64_t peak_bytes_ = 0;
};

}  // namespace frameshard
