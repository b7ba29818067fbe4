// Parts of a model by place, shared by the ranks that are threads of this process.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include <ATen/ATen.h>

#include "launcher/placement.h"

namespace frameshard {

/// What becomes of a part that nobody uses.
enum class WhenUnused { stays, to_host, freed };

/// No device ever holds two copies of a part in one dtype. A Part has move_to(device).
template <class Part>
class PartShelf {
 public:
  using Load = std::function<std::unique_ptr<Part>()>;

  /// The part at a place. The first rank that takes it loads it, or moves it back from the host; the others
  /// wait for that. Each take() wants a put_back().
  std::shared_ptr<const Part> take(const PartPlace& where, const Load& load) {
    Place& place = place_of(where);
    const std::lock_guard lock(place.mutex);
    if (!place.part) place.part = load();
    if (std::exchange(place.on_host, false)) place.part->move_to(where.device);
    ++place.users;
    return place.part;
  }

  /// `mine` is what take() gave. The last rank to put it back does what `unused` says. True where the device
  /// holds no such weights of it any more.
  bool put_back(const PartPlace& where, std::shared_ptr<const Part>&& mine, WhenUnused unused) {
    Place& place = place_of(where);
    const std::lock_guard lock(place.mutex);
    mine.reset();
    if (--place.users > 0 || unused == WhenUnused::stays) return false;
    if (unused == WhenUnused::freed) {
      place.part.reset();
    } else {
      place.part->move_to(at::kCPU);
      place.on_host = true;
    }
    return true;
  }

 private:
  struct Place {
    std::mutex mutex;
    std::shared_ptr<Part> part;
    int users = 0;
    bool on_host = false;
  };

  Place& place_of(const PartPlace& where) {
    const std::lock_guard lock(mutex_);
    return places_[{where.device.str(), where.dtype}];
  }

  std::mutex mutex_;
  std::map<std::pair<std::string, at::ScalarType>, Place> places_;
};

}  // namespace frameshard
