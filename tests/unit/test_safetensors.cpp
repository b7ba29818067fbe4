#include <filesystem>
#include <fstream>

#include <unistd.h>

#include "core/io/safetensors.h"
#include "tests/support/catch.h"
#include "tests/support/expect_error.h"
#include "tests/support/scratch.h"

using namespace frameshard;
using frameshard::test::caught;
using Folder = frameshard::test::Scratch;

namespace {

namespace fs = std::filesystem;

void write(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

std::string little_endian(uint64_t value) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += char(value >> (8 * i) & 0xff);
  return bytes;
}
std::string file_bytes(const std::string& header, const std::string& data = "") {
  return little_endian(header.size()) + header + data;
}
std::string entry(const std::string& name, const std::string& shape, const std::string& offsets,
                  const std::string& dtype = "F32") {
  return fmt::format(R"("{}":{{"dtype":"{}","shape":{},"data_offsets":{}}})", name, dtype, shape, offsets);
}
std::string header(const std::string& entries) {
  return fmt::format("{{{}}}", entries);
}

const at::ScalarType dtypes[] = {at::kDouble, at::kFloat, at::kHalf,          at::kBFloat16,
                                 at::kLong,   at::kInt,   at::kShort,         at::kChar,
                                 at::kByte,   at::kBool,  at::kFloat8_e4m3fn, at::kFloat8_e5m2};

at::Tensor numbers(at::IntArrayRef shape, at::ScalarType dtype = at::kFloat) {
  return at::arange(c10::multiply_integers(shape), at::kFloat).view(shape).to(dtype);
}
bool same(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() &&
         at::equal(a.to(at::kDouble), b.to(at::kDouble));
}

}  // namespace

TEST_CASE("a round trip keeps every element type, 0-dim and empty tensors") {
  const Folder folder;
  NamedTensors tensors;
  for (at::ScalarType dtype : dtypes) {
    tensors.emplace_back(std::string("many ") + c10::toString(dtype), numbers({3, 5}, dtype));
    tensors.emplace_back(std::string("one ") + c10::toString(dtype), numbers({2}, dtype)[1]);
    tensors.emplace_back(std::string("none ") + c10::toString(dtype), numbers({4, 0, 2}, dtype));
  }
  tensors.emplace_back("turned", numbers({3, 5}).t());  // not contiguous
  write_safetensors(folder / "w.safetensors", tensors, {{"format", "pt"}});
  const WeightFiles files = WeightFiles::open(folder / "w.safetensors");
  CHECK(files.tensors().size() == tensors.size());
  for (const auto& [name, tensor] : tensors) {
    INFO(name);
    CHECK(same(files.read(name), tensor));
  }
  CHECK(files.find("many Float")->shape == std::vector<int64_t>{3, 5});
  CHECK(files.find("format") == nullptr);
  CHECK(files.find("__metadata__") == nullptr);
  CHECK(caught([&] { files.read("nothing"); }).has("no tensor \"nothing\""));
}

TEST_CASE("a file with no tensors") {
  const Folder folder;
  write_safetensors(folder / "w.safetensors", {});
  CHECK(WeightFiles::open(folder / "w.safetensors").tensors().empty());
}

TEST_CASE("the bytes on disk are the format's") {
  const Folder folder;
  write_safetensors(folder / "w.safetensors", {{"a", at::tensor({1.5f})}, {"b", at::tensor({7}, at::kByte)}});
  std::ifstream in(folder / "w.safetensors", std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(in), {}};
  std::string text = header(entry("a", "[1]", "[0,4]") + "," + entry("b", "[1]", "[4,5]", "U8"));
  text.resize((text.size() + 7) / 8 * 8, ' ');
  CHECK((bytes == file_bytes(text, std::string("\0\0\xC0\x3F\x07", 5))));
}

// The first byte is the length's lowest, which is also what a pickle may begin with.
TEST_CASE("headers of every length are read") {
  const Folder folder;
  for (size_t length = 64; length < 64 + 256; ++length) {
    INFO("a header of " << length << " bytes");
    std::string text = header(entry("a", "[1]", "[0,4]"));
    text.resize(length, ' ');
    write(folder / "w.safetensors", file_bytes(text, std::string(4, '\0')));
    CHECK(caught([&] { WeightFiles::open(folder / "w.safetensors"); }).message == "nothing was thrown");
  }
}

TEST_CASE("shards by an index") {
  const Folder folder;
  write_safetensors(folder / "m-1.safetensors", {{"a", numbers({2})}, {"b", numbers({3})}});
  write_safetensors(folder / "m-2.safetensors", {{"c", numbers({4})}});
  write(
      folder / "m.safetensors.index.json",
      R"({"metadata":{},"weight_map":{"a":"m-1.safetensors","b":"m-1.safetensors","c":"m-2.safetensors"}})");
  const WeightFiles files = WeightFiles::open_component(folder.path(), "m");
  CHECK(files.files().size() == 2);
  CHECK(files.tensors().size() == 3);
  CHECK(same(files.read("b"), numbers({3})));
  CHECK(same(files.read("c"), numbers({4})));
  CHECK(files.fingerprint().find("m-2.safetensors") != std::string::npos);

  write_safetensors(folder / "m.safetensors", {{"single", numbers({1})}});  // it goes before an index
  CHECK(WeightFiles::open_component(folder.path(), "m").find("single"));
}

TEST_CASE("a tensor is read into any element type") {
  const Folder folder;
  NamedTensors tensors;
  for (at::ScalarType dtype : dtypes) tensors.emplace_back(c10::toString(dtype), numbers({2, 3}, dtype));
  tensors.emplace_back("one", numbers({2})[1]);
  tensors.emplace_back("none", numbers({0, 3}));
  write_safetensors(folder / "w.safetensors", tensors);
  const WeightFiles files = WeightFiles::open(folder / "w.safetensors");
  for (const auto& [name, tensor] : tensors) {
    for (at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16, at::kHalf, at::kLong}) {
      INFO(name << " into " << c10::toString(dtype));
      at::Tensor destination = at::full(tensor.sizes(), 9, at::TensorOptions().dtype(dtype));
      files.read_into(*files.find(name), destination);
      CHECK(same(destination, tensor.to(dtype)));
    }
  }
}

TEST_CASE("a tensor larger than the buffer is converted in pieces") {
  const Folder folder;
  const at::Tensor large =
      at::arange((int64_t(5) << 20) + 3, at::kInt).remainder(251).to(at::kFloat);  // 20 MiB
  write_safetensors(folder / "w.safetensors", {{"first", numbers({3})}, {"large", large}});
  const WeightFiles files = WeightFiles::open(folder / "w.safetensors");
  at::Tensor destination = at::empty(large.sizes(), at::TensorOptions().dtype(at::kBFloat16));
  files.read_into(*files.find("large"), destination);
  CHECK(at::equal(destination, large.to(at::kBFloat16)));
}

TEST_CASE("a tensor goes only where it fits, and a file that became shorter is noticed") {
  const Folder folder;
  write_safetensors(folder / "w.safetensors", {{"a", numbers({2, 3})}});
  const WeightFiles files = WeightFiles::open(folder / "w.safetensors");
  at::Tensor flat = at::empty({6}), turned = at::empty({3, 2}).t(), fits = at::empty({2, 3});
  CHECK(caught([&] { files.read_into(*files.find("a"), flat); }).code == ExitCode::internal);
  CHECK(caught([&] { files.read_into(*files.find("a"), turned); }).code == ExitCode::internal);
  fs::resize_file(folder / "w.safetensors", fs::file_size(folder / "w.safetensors") - 4);
  const auto error = caught([&] { files.read_into(*files.find("a"), fits); });
  CHECK(error.code == ExitCode::bad_data);
  CHECK(error.has("truncated: tensor \"a\" ends at byte"));
  CHECK(error.has("4 bytes early"));
}

TEST_CASE("fingerprints differ where headers, sizes or contents do") {
  const Folder folder;
  const auto fingerprint = [&](const NamedTensors& tensors) {
    write_safetensors(folder / "w.safetensors", tensors);
    return WeightFiles::open(folder / "w.safetensors").fingerprint();
  };
  const std::string first = fingerprint({{"a", numbers({2, 3})}});
  CHECK(first == fingerprint({{"a", numbers({2, 3})}}));
  CHECK(first != fingerprint({{"a", numbers({3, 2})}}));
  CHECK(first != fingerprint({{"b", numbers({2, 3})}}));
  CHECK(first != fingerprint({{"a", numbers({2, 3}) + 1}}));
  CHECK(first.starts_with("w.safetensors "));
  // Of a large file, samples: a change of every weight shows.
  const at::Tensor large = at::arange(100'000, at::kFloat);
  CHECK(fingerprint({{"a", large}}) != fingerprint({{"a", large * 1.001}}));
  CHECK(fingerprint({{"a", large}}) == fingerprint({{"a", large.clone()}}));
}
