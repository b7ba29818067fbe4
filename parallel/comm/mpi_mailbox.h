// A mailbox between processes: a thread of rank 0 answers.
#pragma once

#include <memory>
#include <string>

#include <mpi.h>

#include "parallel/comm/mailbox.h"

namespace frameshard {

/// Collective over `comm`, which is duplicated. MPI must have been started with MPI_THREAD_MULTIPLE.
std::unique_ptr<Mailbox> make_mpi_mailbox(MPI_Comm comm, const std::string& name, MailHandler handler);

}  // namespace frameshard
