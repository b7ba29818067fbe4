#include "models/training/sample_store.h"

#include <set>

#include "core/error.h"
#include "core/hash.h"
#include "models/training/sample_encoder.h"
#include "models/training/sample_file.h"

namespace frameshard {
namespace {

namespace fs = std::filesystem;

// Part of every name; another number where files are made in another way.
constexpr int version = 1;

fs::path file_name(const char* kind, const std::string& determined_by) {
  return fmt::format("{}-{:016x}.safetensors", kind,
                     fnv1a(fmt::format("{} {}\n{}", kind, version, determined_by)));
}

// Names of files, from all that determines what is in them.
class Names {
 public:
  Names(const Checkpoint& checkpoint, const StoreOptions& options)
      : directory_(options.directory),
        vae_(fmt::format("{}\n{}", checkpoint.vae_fingerprint(), c10::toString(options.vae_dtype))),
        text_encoder_(fmt::format("{}\n{} {}", checkpoint.text_encoder_fingerprint(),
                                  c10::toString(options.text_dtype), options.max_sequence_length)) {}

  fs::path latents(const DataItem& item) const {
    return directory_ /
           file_name("latents", fmt::format("{}\n{:016x} {}x{}x{}", vae_, item.identity, item.size.frames,
                                            item.size.height, item.size.width));
  }
  fs::path text(const std::string& caption) const {
    return directory_ / file_name("text", text_encoder_ + "\n" + caption);
  }

 private:
  fs::path directory_;
  std::string vae_, text_encoder_;
};

at::Tensor read_again(const fs::path& file) {
  try {
    return read_sample_file(file);
  } catch (const Error& error) {
    fail(ExitCode::bad_data,
         "{}; it was whole when this run began; start again with the same command, which makes it anew",
         error.what());
  }
}

}  // namespace

SampleStore::SampleStore(const Dataset& data, const Checkpoint& checkpoint, const StoreOptions& options,
                         Communicator& world)
    : max_sequence_length_(options.max_sequence_length) {
  const Names names(checkpoint, options);
  std::vector<SampleSource> sources;  // each file once
  std::set<fs::path> known;
  const auto add = [&](SampleSource source) {
    if (known.insert(source.file).second) sources.push_back(std::move(source));
  };
  for (size_t i = 0; i < data.items().size(); ++i) {
    const DataItem& item = data.items()[i];
    latent_files_.push_back(names.latents(item));
    add({.file = latent_files_.back(), .item = i});
    if (!options.captions) continue;
    text_files_.push_back(names.text(item.caption));
    add({.file = text_files_.back(), .item = std::nullopt, .caption = item.caption});
  }
  if (options.captions && options.empty_caption) {
    empty_text_ = names.text("");
    add({.file = empty_text_, .item = std::nullopt});
  }
  std::map<fs::path, std::string> reasons;
  for (const auto& [source, reason] : SampleEncoder(data, checkpoint, options, world).complete(sources))
    reasons[sources[source].file] = reason;
  leave_out(data, reasons);
}

void SampleStore::leave_out(const Dataset& data, const std::map<fs::path, std::string>& reasons) {
  for (size_t i = 0; i < latent_files_.size(); ++i) {
    const auto reason = reasons.find(latent_files_[i]);
    usable_.push_back(reason == reasons.end());
    if (!usable_.back()) skipped_.push_back({data.items()[i].name, reason->second});
  }
}

at::Tensor SampleStore::latents(size_t item) const {
  require(usable_.at(item), "the latents of item {}, which was left out", item);
  return read_again(latent_files_[item]);
}

at::Tensor SampleStore::text(size_t item) const {
  return padded(text_files_.at(item));
}

at::Tensor SampleStore::empty_text() const {
  require(!empty_text_.empty(), "the empty caption was not asked for");
  return padded(empty_text_);
}

at::Tensor SampleStore::padded(const fs::path& text_file) const {
  const at::Tensor tokens = read_again(text_file);
  return at::constant_pad_nd(tokens, {0, 0, 0, max_sequence_length_ - tokens.size(1)});
}

}  // namespace frameshard
