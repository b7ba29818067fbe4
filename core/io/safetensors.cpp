#include "core/io/safetensors.h"

#include <set>

#include <fcntl.h>
#include <unistd.h>

#include "core/error.h"
#include "core/hash.h"
#include "core/io/file_kind.h"
#include "core/io/json_file.h"
#include "core/text.h"

namespace frameshard {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t max_header_bytes = 100'000'000;
constexpr uint64_t buffer_bytes = 16 << 20;

class OpenFile {
 public:
  explicit OpenFile(const fs::path& path)
      : path_(path), descriptor_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (descriptor_ < 0) {
      fail(errno == ENOENT ? ExitCode::missing_file : ExitCode::io, "{}: cannot be opened: {}", path.string(),
           std::strerror(errno));
    }
  }
  ~OpenFile() { ::close(descriptor_); }
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;

  // pread and not a mapping: a mapped file that is cut while in use kills the process with SIGBUS.
  void read(void* to, uint64_t bytes, uint64_t offset, const std::string& what) const {
    auto* at = static_cast<char*>(to);
    while (bytes > 0) {
      const ssize_t got = ::pread(descriptor_, at, bytes, off_t(offset));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0)
        fail(ExitCode::io, "{}: reading {} failed: {}", path_.string(), what, std::strerror(errno));
      if (got == 0) {
        fail(ExitCode::bad_data, "{}: truncated: {} ends at byte {}, {} bytes early; download it again",
             path_.string(), what, offset, bytes);
      }
      at += got, offset += uint64_t(got), bytes -= uint64_t(got);
    }
  }

 private:
  const fs::path& path_;
  int descriptor_;
};

const std::pair<const char*, at::ScalarType> dtypes[] = {{"F64", at::kDouble},
                                                         {"F32", at::kFloat},
                                                         {"F16", at::kHalf},
                                                         {"BF16", at::kBFloat16},
                                                         {"I64", at::kLong},
                                                         {"I32", at::kInt},
                                                         {"I16", at::kShort},
                                                         {"I8", at::kChar},
                                                         {"U8", at::kByte},
                                                         {"BOOL", at::kBool},
                                                         {"F8_E4M3", at::kFloat8_e4m3fn},
                                                         {"F8_E5M2", at::kFloat8_e5m2}};

// A pickle (bare, or in the zip that torch.save writes) can run any code when loaded. The magic numbers alone
// are also possible lengths of a header: the caller asks only where no header follows.
[[noreturn]] void refuse_pickle(const fs::path& pickle, const std::string& stem) {
  fail(ExitCode::bad_data,
       "{}: this is a pickle (.pt, .pth, .ckpt, .bin), which can run code when loaded, and is refused; "
       "convert it in "
       "Python: safetensors.torch.save_file(torch.load(\"{}\", weights_only=True), \"{}.safetensors\")",
       pickle.string(), pickle.filename().string(), stem);
}

bool is_pickle(std::string_view first_bytes) {
  return first_bytes.starts_with("PK\x03\x04") || first_bytes.starts_with("\x80");
}

void refuse_pickles_in(const fs::path& folder, const std::string& stem) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const std::string suffix = entry.path().extension().string();
    if (suffix == ".bin" || suffix == ".pt" || suffix == ".pth" || suffix == ".ckpt")
      refuse_pickle(entry.path(), stem);
  }
}

// nlohmann keeps the last of duplicate keys without a word; two tensors of one name are a corrupt file.
Json parse_header(const fs::path& file, const std::string& text) {
  std::vector<std::set<std::string>> seen;
  std::string duplicate;
  auto watch = [&](int, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::object_start) seen.emplace_back();
    if (event == Json::parse_event_t::object_end) seen.pop_back();
    if (event == Json::parse_event_t::key && !seen.back().insert(parsed.get<std::string>()).second) {
      duplicate = parsed.get<std::string>();
    }
    return true;
  };
  Json header;
  try {
    header = Json::parse(text, watch);
  } catch (const nlohmann::json::exception& error) {
    fail(ExitCode::bad_data, "{}: corrupt header: {}", file.string(), one_line(error.what()));
  }
  if (!duplicate.empty())
    fail(ExitCode::bad_data, "{}: corrupt header: two entries \"{}\"", file.string(), one_line(duplicate));
  return header;
}

std::string read_header(const OpenFile& in, const fs::path& file, uint64_t file_bytes) {
  char first[9] = {};  // the header's length, and its first character
  in.read(first, std::min<uint64_t>(file_bytes, sizeof first), 0, "the header's length");
  if (first[8] != '{' && is_pickle({first, 8})) refuse_pickle(file, file.stem().string());
  if (file_bytes < 8)
    fail(ExitCode::bad_data, "{}: truncated: {} bytes are no safetensors file", file.string(), file_bytes);
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | uint8_t(first[i]);
  if (length > max_header_bytes || length > file_bytes - 8) {
    fail(ExitCode::bad_data,
         "{}: corrupt or truncated: the header claims {} bytes at offset 8, the file has {} (and a header at "
         "most {})",
         file.string(), length, file_bytes, max_header_bytes);
  }
  std::string text(length, '\0');
  in.read(text.data(), length, 8, "the header");
  if (!text.starts_with('{'))
    fail(ExitCode::bad_data, "{}: corrupt header: does not start with {{ at offset 8", file.string());
  return text;
}

uint64_t checked_size(const fs::path& file, const std::string& name, const std::vector<int64_t>& shape,
                      uint64_t each) {
  uint64_t bytes = each;
  for (int64_t extent : shape) {
    if (extent < 0 || __builtin_mul_overflow(bytes, uint64_t(extent), &bytes)) {
      fail(ExitCode::bad_data, "{}: tensor \"{}\": impossible shape {}", file.string(), one_line(name),
           format_shape(shape));
    }
  }
  return bytes;
}

// nlohmann would read 2.5 as 2, and -1 as a large unsigned number.
template <class Number>
std::vector<Number> whole_numbers(const Json& entry, const char* key) {
  const Json& json = entry.at(key);
  for (const Json& number : json) {
    const bool whole = std::is_signed_v<Number> ? number.is_number_integer() : number.is_number_unsigned();
    if (!whole)
      throw Json::type_error::create(302, fmt::format("{} has {}, not a whole number", key, number.dump()),
                                     &number);
  }
  return json.get<std::vector<Number>>();
}

TensorEntry parse_entry(const fs::path& file, const std::string& name, const Json& json, uint64_t data_start,
                        uint64_t file_bytes) {
  TensorEntry entry{.name = name, .dtype = at::kFloat, .shape = {}, .file = 0, .offset = 0, .bytes = 0};
  std::vector<uint64_t> range;
  try {
    entry.dtype = dtype_from_safetensors(json.at("dtype").get<std::string>(),
                                         fmt::format("{}: tensor \"{}\"", file.string(), one_line(name)));
    entry.shape = whole_numbers<int64_t>(json, "shape");
    range = whole_numbers<uint64_t>(json, "data_offsets");
  } catch (const nlohmann::json::exception& error) {
    fail(ExitCode::bad_data, "{}: tensor \"{}\": corrupt header entry: {}", file.string(), one_line(name),
         one_line(error.what()));
  }
  entry.bytes = checked_size(file, name, entry.shape, c10::elementSize(entry.dtype));
  if (range.size() != 2 || range[1] < range[0] || range[1] - range[0] != entry.bytes) {
    fail(ExitCode::bad_data, "{}: tensor \"{}\": offsets {} do not hold {} bytes of shape {}", file.string(),
         one_line(name), json.at("data_offsets").dump(), entry.bytes, format_shape(entry.shape));
  }
  entry.offset = data_start + range[0];
  if (range[1] > file_bytes - data_start) {
    fail(ExitCode::bad_data,
         "{}: truncated: tensor \"{}\" ends at offset {}, the file has {} bytes; download it again",
         file.string(), one_line(name), data_start + range[1], file_bytes);
  }
  return entry;
}

// Bytes between tensors, or claimed twice, mean that the header was not written for this data.
void check_no_gaps(const fs::path& file, std::vector<TensorEntry> entries, uint64_t data_start,
                   uint64_t file_bytes) {
  std::sort(entries.begin(), entries.end(),
            [](auto& a, auto& b) { return std::pair(a.offset, a.bytes) < std::pair(b.offset, b.bytes); });
  uint64_t expected = data_start;
  for (const TensorEntry& entry : entries) {
    if (entry.offset != expected) {
      fail(ExitCode::bad_data, "{}: corrupt: tensor \"{}\" starts at offset {} where {} was expected ({})",
           file.string(), one_line(entry.name), entry.offset, expected,
           entry.offset < expected ? "tensors overlap" : "a hole");
    }
    expected += entry.bytes;
  }
  if (expected != file_bytes) {
    fail(ExitCode::bad_data, "{}: corrupt: tensors end at offset {}, the file has {} bytes", file.string(),
         expected, file_bytes);
  }
}

// Of a few pieces of the data, spread evenly, its start and end among them: weights that were trained on
// differ there.
uint64_t hash_samples(const OpenFile& in, uint64_t begin, uint64_t end) {
  constexpr uint64_t pieces = 16, piece_bytes = 4096;
  const uint64_t bytes = std::min(piece_bytes, end - begin), last = end - begin - bytes;
  std::string samples(pieces * bytes, '\0');
  for (uint64_t i = 0; i < pieces; ++i) {
    in.read(samples.data() + i * bytes, bytes, begin + last * i / (pieces - 1), "the data");
  }
  return fnv1a(samples);
}

}  // namespace

std::string format_shape(at::IntArrayRef shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

at::ScalarType dtype_from_safetensors(const std::string& name, const std::string& context) {
  for (const auto& [known, dtype] : dtypes) {
    if (name == known) return dtype;
  }
  fail(ExitCode::bad_data, "{}: unknown element type \"{}\"", context, one_line(name));
}

std::string dtype_to_safetensors(at::ScalarType wanted) {
  for (const auto& [name, dtype] : dtypes) {
    if (dtype == wanted) return name;
  }
  fail(ExitCode::internal, "safetensors has no element type for {}", c10::toString(wanted));
}

const TensorEntry* WeightFiles::find(const std::string& name) const {
  const auto at = tensors_.find(name);
  return at == tensors_.end() ? nullptr : &at->second;
}

void WeightFiles::add_file(const fs::path& file) {
  require_file(file);
  const OpenFile in(file);
  const uint64_t file_bytes = fs::file_size(file);
  const std::string text = read_header(in, file, file_bytes);
  const Json header = parse_header(file, text);
  const uint64_t data_start = 8 + text.size();
  std::vector<TensorEntry> entries;
  for (const auto& [name, json] : header.items()) {
    if (name == "__metadata__") continue;
    entries.push_back(parse_entry(file, name, json, data_start, file_bytes));
    entries.back().file = files_.size();
  }
  check_no_gaps(file, entries, data_start, file_bytes);
  for (TensorEntry& entry : entries) {
    const auto [at, fresh] = tensors_.emplace(entry.name, entry);
    if (!fresh) {
      fail(ExitCode::bad_data, "{}: tensor \"{}\" is also in {}", file.string(), one_line(entry.name),
           files_[at->second.file].filename().string());
    }
  }
  files_.push_back(file);
  fingerprints_.push_back(fmt::format("{} {} bytes, header {:016x}, samples {:016x}",
                                      file.filename().string(), file_bytes, fnv1a(text),
                                      hash_samples(in, data_start, file_bytes)));
}

void WeightFiles::add_shards(const fs::path& index) {
  const JsonReader reader(index);
  const auto weight_map = reader.get<std::map<std::string, std::string>>("weight_map");
  std::set<std::string> shards;
  for (const auto& [name, shard] : weight_map) {
    if (fs::path(shard).filename() != shard || shard.empty() || shard == "." || shard == "..") {
      fail(ExitCode::bad_data, "{}: shard name \"{}\" of \"{}\" must be a plain file name", index.string(),
           one_line(shard), one_line(name));
    }
    shards.insert(shard);
  }
  for (const std::string& shard : shards) add_file(index.parent_path() / shard);
  for (const auto& [name, shard] : weight_map) {
    const TensorEntry* entry = find(name);
    if (!entry || files_[entry->file].filename() != shard) {
      fail(ExitCode::bad_data, "{}: tensor \"{}\" should be in {} and is not", index.string(), one_line(name),
           one_line(shard));
    }
  }
}

std::map<std::string, std::string> read_safetensors_metadata(const fs::path& file) {
  require_file(file);
  const Json header = parse_header(file, read_header(OpenFile(file), file, fs::file_size(file)));
  std::map<std::string, std::string> metadata;
  if (!header.contains("__metadata__")) return metadata;
  for (const auto& [key, value] : header.at("__metadata__").items()) {
    if (value.is_string()) metadata[key] = value.get<std::string>();
  }
  return metadata;
}

WeightFiles WeightFiles::open(const fs::path& file) {
  WeightFiles weights;
  weights.add_file(file);
  return weights;
}

WeightFiles WeightFiles::open_component(const fs::path& folder, const std::string& stem) {
  WeightFiles weights;
  const fs::path single = folder / (stem + ".safetensors"),
                 index = folder / (stem + ".safetensors.index.json");
  if (fs::exists(single)) {
    weights.add_file(single);
  } else if (fs::exists(index)) {
    weights.add_shards(index);
  } else {
    refuse_pickles_in(folder, stem);
    fail(ExitCode::missing_file, "{}: neither {} nor {} is there", folder.string(),
         single.filename().string(), index.filename().string());
  }
  return weights;
}

void WeightFiles::read_into(const TensorEntry& entry, at::Tensor& destination) const {
  const OpenFile in(files_[entry.file]);
  const std::string what = "tensor \"" + entry.name + "\"";
  require(destination.is_contiguous() && destination.sizes() == at::IntArrayRef(entry.shape),
          "{}: read into a tensor of shape {}", what, format_shape(destination.sizes()));
  if (destination.is_cpu() && destination.scalar_type() == entry.dtype) {
    return in.read(destination.data_ptr(), entry.bytes, entry.offset, what);
  }
  const uint64_t each = c10::elementSize(entry.dtype), elements = entry.bytes / each;
  const uint64_t chunk = std::min(elements, buffer_bytes / each);
  at::Tensor buffer = at::empty({int64_t(chunk)}, at::TensorOptions().dtype(entry.dtype));
  at::Tensor flat = destination.view({-1});
  for (uint64_t done = 0; done < elements; done += chunk) {
    const uint64_t count = std::min(chunk, elements - done);
    in.read(buffer.data_ptr(), count * each, entry.offset + done * each, what);
    flat.narrow(0, int64_t(done), int64_t(count)).copy_(buffer.narrow(0, 0, int64_t(count)));
  }
}

at::Tensor WeightFiles::read(const std::string& name) const {
  const TensorEntry* entry = find(name);
  if (!entry) fail(ExitCode::bad_data, "{}: no tensor \"{}\"", files_.front().string(), name);
  at::Tensor tensor = at::empty(entry->shape, at::TensorOptions().dtype(entry->dtype));
  read_into(*entry, tensor);
  return tensor;
}

std::string WeightFiles::fingerprint() const {
  return fmt::format("{}", fmt::join(fingerprints_, "\n"));
}

}  // namespace frameshard
