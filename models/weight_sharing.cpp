#include "models/weight_sharing.h"

#include <map>

#include "core/error.h"
#include "core/host.h"
#include "core/log.h"
#include "parallel/comm/settle.h"
#include "parallel/comm/text.h"

namespace frameshard {
namespace {

constexpr int64_t alignment = 64;

// Runs `action`; what it throws is text.
template <class Action>
std::string attempt(Action action) {
  try {
    action();
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

// Targets are views of the block, which lives as long as one of them.
void place_in(const std::shared_ptr<SharedMemory>& memory, const WeightList& list, at::ScalarType dtype) {
  const WeightLayout layout = layout_of(list, dtype);
  for (size_t i = 0; i < list.slots().size(); ++i) {
    allocate_weight(list.slots()[i], dtype, [&](at::IntArrayRef shape, at::ScalarType type) {
      return at::from_blob(
          memory->data() + layout.offsets[i], shape, [memory](void*) {}, at::TensorOptions().dtype(type));
    });
  }
}

void allocate_on(const at::Device& device, const WeightList& list, at::ScalarType dtype) {
  for (const WeightSlot& slot : list.slots()) allocate_weight(slot, dtype, device);
}

// Of the slots, those that are dealt to `rank`; -1: all.
void read_slots(const WeightList& list, const WeightFiles& files, const std::vector<int>& reader, int rank) {
  for (size_t i = 0; i < list.slots().size(); ++i) {
    if (rank < 0 || reader[i] == rank) read_weight(list.slots()[i], files);
  }
}

void load_on_cpus(const WeightList& list, const WeightFiles& files, const LoadOptions& options,
                  const OpenSharedMemory& open) {
  Communicator& host = *options.host->ranks;
  const auto memory = share_memory(host, layout_of(list, options.dtype).bytes, open);
  settle(host, [&] {
    if (memory) {
      place_in(memory, list, options.dtype);
    } else {
      allocate_on(options.device, list, options.dtype);
    }
    read_slots(list, files, deal_slots(list, options.dtype, host.size()), memory ? host.rank() : -1);
  });
  if (memory) memory->protect();
}

// All read before anything is sent, so that the disk is asked by all at once.
void load_on_devices(const WeightList& list, const WeightFiles& files, const LoadOptions& options) {
  Communicator& host = *options.host->ranks;
  const std::vector<int> reader = deal_slots(list, options.dtype, host.size());
  settle(host, [&] {
    allocate_on(options.device, list, options.dtype);
    read_slots(list, files, reader, host.rank());
  });
  Communicator& devices = options.host->tensors ? *options.host->tensors : host;
  for (size_t i = 0; i < reader.size(); ++i) {
    at::Tensor flat = list.slots()[i].target->view({-1});
    devices.broadcast(flat, reader[i]);
  }
}

}  // namespace

WeightLayout layout_of(const WeightList& list, at::ScalarType dtype) {
  WeightLayout layout;
  std::map<const at::Tensor*, int64_t> begins;  // of wholes
  for (const WeightSlot& slot : list.slots()) {
    const int64_t rows = slot.shape.empty() ? 1 : std::max<int64_t>(1, slot.shape[0]);
    const int64_t row_bytes = slot.bytes(dtype) / rows;
    if (slot.whole && slot.first_row > 0) {
      layout.offsets.push_back(begins.at(slot.whole) + slot.first_row * row_bytes);
      continue;
    }
    layout.offsets.push_back(layout.bytes);
    if (slot.whole) begins[slot.whole] = layout.bytes;
    const int64_t bytes = slot.whole ? slot.whole_rows * row_bytes : slot.bytes(dtype);
    layout.bytes += (bytes + alignment - 1) / alignment * alignment;
  }
  return layout;
}

// A slot goes to the rank in whose even share of all bytes its middle lies.
std::vector<int> deal_slots(const WeightList& list, at::ScalarType dtype, int ranks) {
  const double share = double(std::max<int64_t>(1, list.bytes(dtype))) / ranks;
  std::vector<int> readers;
  int64_t begin = 0;
  for (const WeightSlot& slot : list.slots()) {
    const int64_t bytes = slot.bytes(dtype);
    readers.push_back(std::min(ranks - 1, int((double(begin) + double(bytes) / 2) / share)));
    begin += bytes;
  }
  return readers;
}

std::shared_ptr<SharedMemory> share_memory(Communicator& host, int64_t bytes, const OpenSharedMemory& open) {
  std::shared_ptr<SharedMemory> memory;
  std::string address, why;
  if (host.rank() == 0) {
    why = attempt([&] {
      memory = SharedMemory::create(bytes);
      address = memory->address();
    });
  }
  address = gather_texts(host, address).front();
  if (host.rank() != 0 && !address.empty()) why = attempt([&] { memory = open(address); });
  for (const std::string& each : gather_texts(host, why)) {
    if (each.empty()) continue;
    if (host.rank() == 0) {
      log::warning(
          "each rank of this host holds a copy of the weights, {} for {} ranks, which the plan does not "
          "count: {}; "
          "infer.share_weights=false plans for it",
          format_bytes(double(bytes) * host.size()), host.size(), each);
    }
    return nullptr;
  }
  memory->close_address();
  return memory;
}

void load_weights_together(const WeightList& list, const WeightFiles& files, const LoadOptions& options,
                           const OpenSharedMemory& open) {
  if (options.device.is_cpu()) {
    load_on_cpus(list, files, options, open);
  } else {
    load_on_devices(list, files, options);
  }
}

}  // namespace frameshard
