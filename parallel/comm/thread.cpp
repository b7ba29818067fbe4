#include "parallel/comm/thread.h"

#include <condition_variable>
#include <exception>
#include <map>
#include <mutex>
#include <optional>
#include <system_error>

#include <c10/core/AutogradState.h>

#include "core/device.h"
#include "core/error.h"
#include "core/log.h"
#include "parallel/comm/rank_team.h"
#include "parallel/comm/thread_world.h"

namespace frameshard {
namespace {

// What all groups of one world share: when a rank fails, every waiting rank of every group must wake.
struct World {
  std::mutex mutex;
  std::condition_variable changed;
  std::exception_ptr first_failure;
};

// A mailbox as all its ranks share it.
struct Mail {
  MailHandler handler;
  std::mutex answering;  // held while the handler runs
  bool gone = false;     // rank 0's mailbox, under `answering`
  int open = 0;          // mailboxes of the others, under World::mutex
};

// What one rank shows the others during a collective.
struct Slot {
  const at::Tensor* tensor = nullptr;
  const Counts* counts = nullptr;
  int color = 0, key = 0;
  std::shared_ptr<Mail> mail{};
};

struct Group {
  Group(std::shared_ptr<World> the_world, int n) : world(std::move(the_world)), size(n), slots(size_t(n)) {}

  // Returns when all ranks of the group have arrived, or throws when a rank has failed meanwhile.
  void wait() { wait(/*until_failure=*/true); }
  // For ranks that are sure to come, whatever failed.
  void wait_for_all() { wait(/*until_failure=*/false); }

  void wait(bool until_failure) {
    std::unique_lock lock(world->mutex);
    if (until_failure && world->first_failure) throw OtherRankFailed();
    const uint64_t mine = generation;
    if (++arrived == size) {
      arrived = 0;
      ++generation;
      world->changed.notify_all();
      return;
    }
    world->changed.wait(lock, [&] { return generation != mine || (until_failure && world->first_failure); });
    if (generation == mine) throw OtherRankFailed();
  }

  std::shared_ptr<World> world;
  int size, arrived = 0;
  uint64_t generation = 0;
  std::vector<Slot> slots;
  std::map<int, std::shared_ptr<Group>> children;  // by color, while a split runs
};

void reduce_into(at::Tensor& total, const at::Tensor& other, ReduceOp op) {
  const at::Tensor here = other.to(total.device());
  switch (op) {
    case ReduceOp::sum:
      total.add_(here);
      return;
    case ReduceOp::max:
      total.copy_(at::maximum(total, here));
      return;
    case ReduceOp::min:
      total.copy_(at::minimum(total, here));
      return;
  }
}

class ThreadMailbox final : public Mailbox {
 public:
  ThreadMailbox(std::shared_ptr<World> world, std::shared_ptr<Mail> mail, int rank)
      : world_(std::move(world)),
        mail_(std::move(mail)),
        rank_(rank),
        unwinding_(std::uncaught_exceptions()) {}

  ~ThreadMailbox() override {
    if (rank_ == 0) {
      close_first();
    } else {
      close_other();
    }
  }

  std::string ask(const std::string& text) override {
    std::lock_guard lock(mail_->answering);
    if (mail_->gone) throw OtherRankFailed();  // rank 0 leaves before the others only when something failed
    return mail_->handler(rank_, text);
  }

 private:
  void close_other() {
    std::lock_guard lock(world_->mutex);
    --mail_->open;
    world_->changed.notify_all();
  }
  // What the handler refers to goes after this: nobody may be in it, or come to it, any more.
  void close_first() {
    if (std::uncaught_exceptions() == unwinding_) {
      std::unique_lock lock(world_->mutex);
      world_->changed.wait(lock, [&] { return mail_->open == 0 || world_->first_failure; });
    }
    std::lock_guard lock(mail_->answering);
    mail_->gone = true;
    mail_->handler = nullptr;
  }

  std::shared_ptr<World> world_;
  std::shared_ptr<Mail> mail_;
  int rank_, unwinding_;
};

class ThreadCommunicator final : public Communicator {
 public:
  ThreadCommunicator(std::shared_ptr<Group> group, int rank, std::string name)
      : Communicator(rank, group->size, std::move(name)), group_(std::move(group)) {}

 private:
  // Shows `mine` to all, runs `work` while every rank's is shown, and returns when all ranks have finished
  // reading.
  template <class Work>
  void exchange(const Slot& mine, Work work) {
    if (mine.tensor) synchronize(mine.tensor->device());  // others read on streams of their own
    group_->slots[size_t(rank())] = mine;
    group_->wait();
    std::exception_ptr failure;
    try {
      work(group_->slots);
      if (mine.tensor) synchronize(mine.tensor->device());
    } catch (...) {
      failure = std::current_exception();
    }
    group_->wait_for_all();  // what this rank shows must stay until all have read it
    if (failure) std::rethrow_exception(failure);
  }

  void do_all_reduce(at::Tensor& tensor, ReduceOp op) override {
    at::Tensor total;
    exchange({.tensor = &tensor}, [&](const std::vector<Slot>& slots) {
      total = slots[0].tensor->to(tensor.device(), /*non_blocking=*/false, /*copy=*/true);
      for (int i = 1; i < size(); ++i) reduce_into(total, *slots[size_t(i)].tensor, op);
    });
    tensor.copy_(total);
  }

  void do_all_gather(const at::Tensor& mine, at::Tensor& out, const Counts& recv) override {
    const auto offsets = offsets_of(recv);
    exchange({.tensor = &mine}, [&](const std::vector<Slot>& slots) {
      for (size_t i = 0; i < slots.size(); ++i) {
        require(slots[i].tensor->numel() == recv[i],
                "all_gather on {}: rank {} sends {} elements, {} expected", name(), i,
                slots[i].tensor->numel(), recv[i]);
        out.narrow(0, offsets[i], recv[i]).copy_(slots[i].tensor->view({-1}));
      }
    });
  }

  void do_reduce_scatter(const at::Tensor& whole, at::Tensor& out, const Counts& counts) override {
    const auto begin = offsets_of(counts)[size_t(rank())];
    exchange({.tensor = &whole}, [&](const std::vector<Slot>& slots) {
      out.copy_(slots[0].tensor->view({-1}).narrow(0, begin, out.numel()));
      for (int i = 1; i < size(); ++i) {
        reduce_into(out, slots[size_t(i)].tensor->view({-1}).narrow(0, begin, out.numel()), ReduceOp::sum);
      }
    });
  }

  void do_all_to_all(const at::Tensor& send, at::Tensor& out, const Counts& send_counts,
                     const Counts& recv_counts) override {
    const auto to = offsets_of(recv_counts);
    exchange({.tensor = &send, .counts = &send_counts}, [&](const std::vector<Slot>& slots) {
      for (size_t i = 0; i < slots.size(); ++i) {
        const Counts& theirs = *slots[i].counts;
        require(theirs[size_t(rank())] == recv_counts[i],
                "all_to_all on {}: rank {} sends {} elements, {} expected", name(), i, theirs[size_t(rank())],
                recv_counts[i]);
        const int64_t from = offsets_of(theirs)[size_t(rank())];
        out.narrow(0, to[i], recv_counts[i])
            .copy_(slots[i].tensor->view({-1}).narrow(0, from, recv_counts[i]));
      }
    });
  }

  void do_broadcast(at::Tensor& tensor, int root) override {
    exchange({.tensor = &tensor}, [&](const std::vector<Slot>& slots) {
      if (rank() != root) tensor.copy_(slots[size_t(root)].tensor->view(tensor.sizes()));
    });
  }

  void do_barrier() override { group_->wait(); }

  CommPtr do_split(int color, int key, const std::string& name) override {
    std::vector<std::pair<int, int>> members;  // (key, rank) of my color
    std::shared_ptr<Group> child;
    exchange({.color = color, .key = key}, [&](const std::vector<Slot>& slots) {
      for (size_t i = 0; i < slots.size(); ++i) {
        if (slots[i].color == color) members.emplace_back(slots[i].key, int(i));
      }
      std::sort(members.begin(), members.end());
      std::lock_guard lock(group_->world->mutex);
      auto& made = group_->children[color];
      if (!made) made = std::make_shared<Group>(group_->world, int(members.size()));
      child = made;
    });
    group_->wait();  // everyone has its child: the table can be emptied for the next split
    {
      std::lock_guard lock(group_->world->mutex);
      group_->children.clear();
    }
    group_->wait();
    const auto me = std::find_if(members.begin(), members.end(), [&](auto& m) { return m.second == rank(); });
    return std::make_unique<ThreadCommunicator>(child, int(me - members.begin()), name);
  }

  std::unique_ptr<Mailbox> do_open_mailbox(MailHandler handler) override {
    auto mail = std::make_shared<Mail>();
    mail->handler = std::move(handler);
    mail->open = size() - 1;
    exchange({.mail = mail}, [&](const std::vector<Slot>& slots) { mail = slots[0].mail; });
    return std::make_unique<ThreadMailbox>(group_->world, mail, rank());
  }

  std::shared_ptr<Group> group_;
};

}  // namespace

struct ThreadWorld::Shared {
  std::shared_ptr<World> world = std::make_shared<World>();
  std::shared_ptr<Group> group;
};

ThreadWorld::ThreadWorld(int n) : shared_(std::make_unique<Shared>()) {
  shared_->group = std::make_shared<Group>(shared_->world, n);
}

ThreadWorld::~ThreadWorld() = default;

void ThreadWorld::run_rank(int rank, const RankBody& body) {
  World& world = *shared_->world;
  log::set_rank(rank, shared_->group->size);
  // Backward passes on this thread: autograd's own thread of a GPU would serve all ranks that share it, and
  // wait in the first one's collective for the others behind it.
  c10::AutogradState::get_tls_state().set_multithreading_enabled(false);
  try {
    ThreadCommunicator comm(shared_->group, rank, "world");
    body(comm);
  } catch (const OtherRankFailed&) {
  } catch (...) {
    std::lock_guard lock(world.mutex);
    if (!world.first_failure) world.first_failure = std::current_exception();
    world.changed.notify_all();
  }
}

void ThreadWorld::rethrow_first_failure() const {
  if (shared_->world->first_failure) std::rethrow_exception(shared_->world->first_failure);
}

void run_ranks(int n, const std::function<void(Communicator&)>& body) {
  std::optional<RankTeam> team;
  try {
    team.emplace(n);
  } catch (const std::system_error& error) {
    fail(ExitCode::unavailable,
         "{} ranks cannot be started as threads: {}; use fewer, or allow more (ulimit -u)", n, error.what());
  }
  team->run(body);
}

}  // namespace frameshard
