// One rank of a training run: data encoded, model loaded, and step after step to the end.
#pragma once

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
  struct Pass {
    const SampleStore* store;
    size_t item;
    int64_t sample;  ///< whose random numbers are drawn
    double weight;
  };

  void encode_data();
  void draw_class();
  void draw_missing(const std::vector<RequestConfig>& wanted, const std::filesystem::path& folder);
  void plan_training();
  void load_model();
  void resume();
  void one_step(int64_t step);
  std::vector<std::vector<int64_t>> deal(const Batch& batch) const;
  std::vector<Pass> passes_of(const Batch& batch, const std::vector<int64_t>& mine) const;
  TrainPass prepared(const Pass& pass) const;
  LevelLosses compute(const std::vector<Pass>& passes, int64_t idle);
  LevelLosses sum_over_ranks(const LevelLosses& mine);
  std::string identity() const;
  void after_step(int64_t step);
  void end_epoch(int64_t step);
  void validate(int64_t step);
  void draw_samples(int64_t step, const std::filesystem::path& directory);
  void save_state(int64_t step);
  void write_result(const std::filesystem::path& path);
  double exchange_seconds();
  bool first() const { return world_.rank() == 0; }

  TrainJob& job_;
  PlanMachine machine_;
  const RankPlace& place_;
  at::Device device_;
  Communicator& world_;
  double shift_;  // of noise levels
  std::optional<SampleStore> data_, prior_, validation_;
  std::optional<SampleOrder> order_, prior_order_;
  std::vector<size_t> items_, prior_items_;  // that are usable: what an order's numbers mean
  std::optional<TrainFacts> facts_;
  std::optional<TrainPlan> plan_;
  std::optional<ProcessMesh> mesh_;
  CommPtr gradients_, gather_;
  std::optional<AttentionStrategy> attention_;
  std::unique_ptr<Denoiser> denoiser_;
  std::optional<TrainedModel> model_;
  std::optional<TrainedParameters> parameters_;
  std::shared_ptr<void> others_;  // ZeRO 3: unit 0 stays whole
  std::optional<TrainingBlocks> blocks_;
  std::optional<TrainStep> step_;
  std::optional<Optimizer> optimizer_;
  std::optional<SampleDrawer> drawer_;
  std::optional<TrainLog> log_;
  TrainPosition position_;
  double saved_at_ = 0;  // process seconds
};

}  // namespace frameshard
