#include "launcher/generate.h"

#include <ATen/Parallel.h>

#include "core/device.h"
#include "core/error.h"
#include "core/log.h"
#include "core/phase.h"
#include "launcher/devices.h"
#include "launcher/ledger.h"
#include "launcher/video_maker.h"
#include "models/common/float8.h"
#include "models/prompt_embeddings.h"
#include "parallel/comm/text.h"
#include "parallel/plan_costs.h"

namespace frameshard {
namespace {

// One rank's way through the queue of videos.
class Generator {
 public:
  Generator(const Job& job, const RunPlan& plan, const RankPlace& place, const at::Device& device,
            Communicator& world, const RankTools& tools)
      : job_(job),
        plan_(plan),
        place_(place),
        device_(device),
        world_(world),
        tools_(tools),
        maker_(job, plan, place, device, world, tools) {
    if (world.rank() == 0) ledger_.emplace(job);
    for (size_t i = 0; i < job.units.size(); ++i) {
      if (job.wanted(i)) wanted_.push_back(i);
    }
  }

  Generated run() {
    if (!wanted_.empty()) make_all();
    return share_outcome();
  }

 private:
  void make_all() {
    Stopwatch watch;
    std::vector<RequestConfig> requests;
    for (size_t unit : wanted_) requests.push_back(job_.requests[job_.units[unit].request]);
    const PromptEmbeddings texts = encode(requests);
    maker_.load(watch.lap());

    WorkQueue queue(world_, order(), [this](int64_t item, const std::string& line) {
      ledger_->note(wanted_[size_t(item)], line);
    });
    std::string report, stop;
    try {
      while (const auto item = next(queue, report)) report = make(wanted_[*item], texts);
    } catch (const Error& error) {
      if (error.code() != ExitCode::stopped) throw;
      stop = error.what();  // the queue must be there until the other replicas have stopped too
    }
    end_together(stop);
    if (ledger_) ledger_->close(queue.use(), plan_.mesh.dp);
  }

  // The encoder has its own place, and the embeddings the type that all ranks exchange.
  PromptEmbeddings encode(const std::vector<RequestConfig>& requests) {
    const PartPlace& part = maker_.parts().text_encoder;
    const auto sharing = sharing_for(job_, plan_, part, job_.config.place.text_encoder,
                                     {place_, maker_.mesh(), world_, /*decodes=*/false});
    use_device(part.device);
    const auto load = [this](LoadOptions options) {
      if (job_.lora.changes_weights && options.device.is_cpu())
        options.host = nullptr;  // see model_parts.cpp
      std::shared_ptr<const TextEncoder> encoder = job_.checkpoint->load_text_encoder(options);
      use_lora_files(job_.config.lora, *job_.checkpoint, *encoder);
      return encoder;
    };
    PromptEmbeddings texts(requests,
                           {.load = load,
                            .encoder = {part.dtype, part.device},
                            .dtype = types_of_ranks(job_.config, device_).wire},
                           maker_.mesh(), sharing.get());
    use_device(device_);
    return texts;
  }

  // A stop of one replica is a stop of the job, when the others are at the same point.
  void end_together(const std::string& stop) {
    world_.barrier();
    for (const std::string& each : gather_texts(world_, stop)) {
      if (!each.empty()) throw Error(ExitCode::stopped, each);
    }
  }

  // The first rank of a replica asks for it.
  std::optional<size_t> next(WorkQueue& queue, const std::string& report) {
    set_phase("queue");
    constexpr int64_t nothing = -1;
    at::Tensor item = at::full({1}, nothing, at::kLong);
    if (maker_.mesh().replica().rank() == 0) item.fill_(queue.next(report).value_or(nothing));
    maker_.mesh().replica().broadcast(item, 0);
    const auto index = item.item<int64_t>();
    if (index == nothing) return std::nullopt;
    // Asked when the last video is noted and there is another: a job whose work is done is not stopped any
    // more.
    if (maker_.asked_to_stop()) maker_.fail_stopped();
    return size_t(index);
  }

  // Returns the line for results.jsonl.
  std::string make(size_t index, const PromptEmbeddings& texts) {
    const Unit& unit = job_.units[index];
    const int replica = maker_.mesh().coord().dp;
    Stopwatch whole;
    const auto failure = maker_.make(unit, texts.of(job_.requests[unit.request]));
    if (maker_.mesh().replica().rank() != 0) return "";
    tools_.observer.video_ended(failure.has_value());
    if (failure) log::warning("{} fails, the others go on: {}", job_.unit_name(unit), failure->message);
    if (!failure) videos_[index] = job_.unit_directory(unit) / "video.mp4";
    return result_line(job_, unit, {.failure = failure, .seconds = whole.lap(), .replica = replica});
  }

  // The longest first, so that no replica is left with much to do when the others have finished.
  std::vector<int64_t> order() const {
    const ModelFacts facts = model_facts(job_, plan_.machine.device);
    std::vector<double> costs;
    for (size_t unit : wanted_) {
      const RequestConfig& request = job_.requests[job_.units[unit].request];
      costs.push_back(double(request.num_inference_steps) *
                      step_operations({}, video_class(request, facts), facts));
    }
    return longest_first(costs);
  }

  Generated share_outcome() {
    Generated mine = ledger_ ? ledger_->outcome() : Generated{};
    mine.failures = gather_texts(world_, mine.failures).front();
    at::Tensor code = at::full({1}, int64_t(mine.code), at::kLong);
    world_.broadcast(code, 0);
    mine.code = ExitCode(code.item<int64_t>());
    mine.videos = std::move(videos_);
    return mine;
  }

  const Job& job_;
  const RunPlan& plan_;
  const RankPlace& place_;
  at::Device device_;
  Communicator& world_;
  RankTools tools_;
  VideoMaker maker_;
  std::optional<Ledger> ledger_;  // rank 0's
  std::vector<size_t> wanted_;    // units
  std::map<size_t, std::filesystem::path> videos_;
};

}  // namespace

Generated generate(const Job& job, const RunPlan& plan, const RankPlace& place, Communicator& world,
                   const RankTools& tools) {
  set_phase("setup");
  stay_on_own_cpus(place, plan.machine.threads_per_rank);
  at::set_num_threads(plan.machine.threads_per_rank);
  const at::Device device = rank_device(job.config, place);
  use_device(device);
  if (job.config.lossy.float8_linear) require_float8(device);  // each rank its own
  reset_peak_memory(device);
  for (const std::string& line : device_lines(device, world)) log::info("{}", line);
  Generated made = Generator(job, plan, place, device, world, tools).run();
  set_phase("done");
  return made;
}

}  // namespace frameshard
