// What devices and networks reach, for predictions alone: `frameshard plan` is asked about clusters that are
// not here.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace frameshard {

/// One kind of device. Rates are those that a run reaches, not those of a data sheet (hardware.cpp says how
/// they were found).
struct DeviceKind {
  std::string_view name;
  std::string_view type;  ///< "cpu" or "cuda"
  double operations;      ///< floating-point operations a second; of one thread on a CPU
  double memory_rate;     ///< bytes a second that element-wise work reads and writes; of one thread on a CPU
  double link_rate;       ///< bytes a second sent to other ranks of the node
  double call_seconds;    ///< of a collective inside a node, apart from its bytes
  double layer_seconds;   ///< that a layer takes at least, however small its tensors
  int64_t memory_bytes;   ///< 0: depends on the machine
};

/// What joins nodes.
struct Interconnect {
  std::string_view name;
  double rate;          ///< bytes a second through one adapter, one direction
  bool one_a_node;      ///< the ranks of a node share one adapter; else each GPU has its own
  double call_seconds;  ///< of a collective between nodes, apart from its bytes
};

/// 64 for an unknown name, with those that are known.
const DeviceKind& device_kind(const std::string& name);
const Interconnect& interconnect(const std::string& name);

/// Names for the command line's help: "cpu, h200, ...".
std::string device_names();
std::string interconnect_names();

}  // namespace frameshard
