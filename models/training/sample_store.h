// The encoded form of a data set: latents and text embeddings, made once by all ranks together and kept in
// files.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/stop.h"
#include "models/checkpoint.h"
#include "models/training/dataset.h"
#include "parallel/comm/communicator.h"

namespace frameshard {

struct StoreOptions {
  std::filesystem::path directory;  ///< data.cache
  int64_t max_sequence_length = 512;
  at::ScalarType vae_dtype = at::kFloat, text_dtype = at::kFloat;
  at::Device device = at::kCPU;
  bool fail_on_bad_item = false;
  bool captions = true;        ///< they are encoded; false: text() and empty_text() may not be asked for
  bool empty_caption = false;  ///< the empty caption is wanted too
  /// On rank 0: files made so far, of those that are made in this run.
  std::function<void(int64_t done, int64_t total)> progress{};
  /// A number that the ranks of a host share: ranks with the same one see the same files.
  int host = 0;
  /// Asked between items; true on any rank ends all with 75.
  std::function<bool()> stop_asked = stop_requested;
};

/// Every file is named after what determines its content (item identity or text, the fingerprint of the
/// weights that encode it, dtypes), is written atomically and carries a hash of its tensor that is checked
/// when it is read: one that is cut off or changed is made again, with a warning. An interrupted run goes on
/// where it stopped.
class SampleStore {
 public:
  /// Encodes what is not there yet: missing items are dealt to the ranks of `world` (which moves host data),
  /// each of which loads the VAE, then the text encoder, only if it has something to encode, and frees it.
  /// Collective, as are its errors: all ranks end with that of the lowest one that failed. An item that
  /// cannot be decoded, or whose latents are not finite, is left out on all ranks alike, or is 65 with
  /// `fail_on_bad_item`. Files that are there are checked by the ranks of each host, a part each. A host that
  /// does not share the directory with the others makes what these have made again. 74 where the directory
  /// cannot be written to, 75 where a stop was asked for, 80 where a caption's embedding is not finite.
  SampleStore(const Dataset& data, const Checkpoint& checkpoint, const StoreOptions& options,
              Communicator& world);

  /// Left out while encoding; the same on every rank.
  const std::vector<SkippedItem>& skipped() const { return skipped_; }
  /// Of the data's items, whether this one can be used.
  bool usable(size_t item) const { return usable_[item]; }

  /// Normalised latents [1, C, F, h, w] float32 (the posterior's mean, minus the mean and over the deviation
  /// of vae/config.json: what denoising ends with), on the CPU. 65 where the file was damaged meanwhile; here
  /// and below.
  at::Tensor latents(size_t item) const;
  /// Its caption's embedding [1, T, text_dim] padded with zeros to T = max_sequence_length, in text_dtype.
  at::Tensor text(size_t item) const;
  /// Of the empty caption.
  at::Tensor empty_text() const;

 private:
  void leave_out(const Dataset& data, const std::map<std::filesystem::path, std::string>& reasons);
  at::Tensor padded(const std::filesystem::path& text_file) const;

  int64_t max_sequence_length_;
  std::vector<SkippedItem> skipped_{};
  std::vector<bool> usable_{};
  std::vector<std::filesystem::path> latent_files_{}, text_files_{};  // of each item
  std::filesystem::path empty_text_{};
};

}  // namespace frameshard
