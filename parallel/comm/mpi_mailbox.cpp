#include "parallel/comm/mpi_mailbox.h"

#include <atomic>
#include <chrono>
#include <exception>
#include <mutex>
#include <thread>

#include "core/error.h"
#include "core/log.h"
#include "parallel/comm/mpi_messages.h"

namespace frameshard {
namespace {

enum Tag : int { question = 1, answer = 2, closing = 3 };

// Waiting leaves the core to ranks that compute.
constexpr auto pause = std::chrono::milliseconds(2);

void check(int status, const std::string& name) {
  if (status == MPI_SUCCESS) return;
  fail(ExitCode::unavailable, "MPI: the mailbox of {} failed: {}", name, mpi::error_text(status));
}

// What an answer starts with: the handler's text follows, or the code and message of what it threw.
constexpr char good = '+', bad = '-';

std::string pack_failure(ExitCode code, const std::string& message) {
  return fmt::format("{}{} {}", bad, int(code), message);
}

std::string unpack(const std::string& packed) {
  if (!packed.empty() && packed[0] == good) return packed.substr(1);
  const size_t space = packed.find(' ');
  require(!packed.empty() && packed[0] == bad && space != std::string::npos,
          "a mailbox answered \"{}\", which is no answer", packed);
  throw Error(ExitCode(std::stoi(packed.substr(1, space - 1))), packed.substr(space + 1));
}

class MpiMailbox final : public Mailbox {
 public:
  MpiMailbox(MPI_Comm comm, int rank, int size, std::string name, MailHandler handler)
      : comm_(comm),
        rank_(rank),
        size_(size),
        name_(std::move(name)),
        handler_(std::move(handler)),
        unwinding_(std::uncaught_exceptions()) {
    if (rank_ == 0 && size_ > 1) server_ = std::thread([this] { serve(); });
  }

  ~MpiMailbox() override {
    // A rank that fails ends the job, and nobody is left who would answer or close.
    const bool failing = std::uncaught_exceptions() > unwinding_;
    if (failing) leave_ = true;
    if (rank_ != 0 && !failing) MPI_Send(nullptr, 0, MPI_BYTE, 0, closing, comm_);
    if (server_.joinable()) server_.join();
    if (!failing) MPI_Comm_free(&comm_);
  }

  std::string ask(const std::string& text) override {
    if (rank_ == 0) {
      std::lock_guard lock(answering_);
      return handler_(0, text);
    }
    send(text, 0, question);
    MPI_Status status;
    while (!arrived(0, answer, status)) std::this_thread::sleep_for(pause);
    return unpack(receive(status));
  }

 private:
  void serve() {
    log::set_rank(0, size_);
    int open = size_ - 1;
    try {
      while (open > 0 && !leave_) {
        MPI_Status status;
        if (!arrived(MPI_ANY_SOURCE, MPI_ANY_TAG, status)) {
          std::this_thread::sleep_for(pause);
          continue;
        }
        const std::string text = receive(status);
        if (status.MPI_TAG == closing) {
          --open;
        } else {
          send(reply(status.MPI_SOURCE, text), status.MPI_SOURCE, answer);
        }
      }
    } catch (const std::exception& error) {
      // MPI itself failed. Whoever waits for an answer learns of it from MPI as well.
      log::warning("{}", error.what());
    }
  }

  std::string reply(int rank, const std::string& text) {
    std::lock_guard lock(answering_);
    try {
      return good + handler_(rank, text);
    } catch (const Error& error) {
      return pack_failure(error.code(), error.what());
    } catch (const std::exception& error) {
      return pack_failure(ExitCode::internal, error.what());
    }
  }

  bool arrived(int source, int tag, MPI_Status& status) {
    int here = 0;
    check(MPI_Iprobe(source, tag, comm_, &here, &status), name_);
    return here != 0;
  }

  std::string receive(MPI_Status& status) {
    int length = 0;
    MPI_Get_count(&status, MPI_BYTE, &length);
    std::string text(size_t(length), '\0');
    check(
        MPI_Recv(text.data(), length, MPI_BYTE, status.MPI_SOURCE, status.MPI_TAG, comm_, MPI_STATUS_IGNORE),
        name_);
    return text;
  }

  void send(const std::string& text, int rank, Tag tag) {
    check(MPI_Send(text.data(), int(text.size()), MPI_BYTE, rank, tag, comm_), name_);
  }

  MPI_Comm comm_;
  int rank_, size_;
  std::string name_;
  MailHandler handler_;
  int unwinding_;
  std::mutex answering_;
  std::atomic<bool> leave_ = false;
  std::thread server_;
};

}  // namespace

std::unique_ptr<Mailbox> make_mpi_mailbox(MPI_Comm comm, const std::string& name, MailHandler handler) {
  MPI_Comm own;
  int rank = 0, size = 1;
  check(MPI_Comm_dup(comm, &own), name);
  MPI_Comm_set_errhandler(own, MPI_ERRORS_RETURN);
  MPI_Comm_rank(own, &rank);
  MPI_Comm_size(own, &size);
  return std::make_unique<MpiMailbox>(own, rank, size, name, std::move(handler));
}

}  // namespace frameshard
