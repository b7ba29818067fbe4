// Files that must be refused, written from raw bytes.
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

// A file of these bytes is refused with 65, and the message names it.
void check_refused(const std::string& bytes, const std::string& words) {
  const Folder folder;
  write(folder / "w.safetensors", bytes);
  const auto error = caught([&] { WeightFiles::open(folder / "w.safetensors"); });
  INFO("message: " << error.message);
  CHECK(error.code == ExitCode::bad_data);
  CHECK(error.message.starts_with((folder / "w.safetensors").string() + ": "));
  CHECK(error.has(words));
}

const at::Tensor two = at::tensor({1.0f, 2.0f});

}  // namespace

TEST_CASE("an index that does not fit its shards") {
  const Folder folder;
  const auto refused = [&](const std::string& map) {
    write(folder / "m.safetensors.index.json", R"({"weight_map":)" + map + "}");
    return caught([&] { WeightFiles::open_component(folder.path(), "m"); });
  };
  write_safetensors(folder / "m-1.safetensors", {{"a", two}});
  write_safetensors(folder / "m-2.safetensors", {{"a", two}});
  const auto lost = refused(R"({"a":"m-1.safetensors","z":"m-1.safetensors"})");
  CHECK(lost.code == ExitCode::bad_data);
  CHECK(lost.has("tensor \"z\" should be in m-1.safetensors and is not"));
  const auto twice = refused(R"({"a":"m-1.safetensors","b":"m-2.safetensors"})");
  CHECK(twice.code == ExitCode::bad_data);
  CHECK(twice.has("tensor \"a\" is also in m-1.safetensors"));
  const auto gone = refused(R"({"a":"m-3.safetensors"})");
  CHECK(gone.code == ExitCode::missing_file);
  CHECK(gone.has("m-3.safetensors: no such file"));
  for (const std::string name : {"../m-1.safetensors", "/etc/passwd", "x/m-1.safetensors", "..", ".", ""}) {
    const auto error = refused(R"({"a":")" + name + R"("})");
    CHECK(error.code == ExitCode::bad_data);
    CHECK(error.has("must be a plain file name"));
  }
  CHECK(refused("3").has("\"weight_map\" has the wrong type"));
  CHECK(refused("3").code == ExitCode::bad_data);
}

TEST_CASE("nothing there, or a pickle instead") {
  const Folder folder;
  const auto nothing = caught([&] { WeightFiles::open_component(folder.path(), "m"); });
  CHECK(nothing.code == ExitCode::missing_file);
  CHECK(nothing.has("neither m.safetensors nor m.safetensors.index.json is there"));
  CHECK(caught([&] { WeightFiles::open(folder / "m.safetensors"); }).code == ExitCode::missing_file);
  CHECK(caught([&] { WeightFiles::open(folder.path()); }).code == ExitCode::missing_file);
  for (const std::string suffix : {".bin", ".pt", ".pth", ".ckpt"}) {
    write(folder / ("m" + suffix), "x");
    const auto error = caught([&] { WeightFiles::open_component(folder.path(), "m"); });
    CHECK(error.code == ExitCode::bad_data);
    CHECK(error.has("m" + suffix + ": this is a pickle"));
    CHECK(error.has("weights_only=True"));
    fs::remove(folder / ("m" + suffix));
  }
}

TEST_CASE("pickles under another name") {
  check_refused(std::string("PK\x03\x04\0\0\x08\x08\0\0\0\0archive/data.pkl", 28), "this is a pickle");
  check_refused("\x80\x02}q\x01(X\x05\x00\x00\x00weight", "this is a pickle");
  check_refused("\x80\x04\x95\x1a\0\0\0\0\0\0\0}\x94", "this is a pickle");
  check_refused(std::string("\x80\x02\x8a\nl\xfc\x9c\x46\xf9 j\xa8P\x19.", 15), "this is a pickle");
}

TEST_CASE("truncated and corrupt files") {
  const std::string one = header(entry("a", "[1]", "[0,4]")), four(4, '\0');
  check_refused("", "truncated: 0 bytes");
  check_refused("1234567", "truncated: 7 bytes");
  check_refused(little_endian(100) + one, "the header claims 100 bytes");
  check_refused(little_endian(100'000'001) + one, "a header at most 100000000");
  check_refused(little_endian(~0ull) + one, "corrupt or truncated");
  check_refused(file_bytes(""), "does not start with { at offset 8");
  check_refused(file_bytes("[1, 2]"), "does not start with {");
  check_refused(file_bytes("{\"a\": "), "corrupt header");
  check_refused(file_bytes(one + "}", four), "corrupt header");
  check_refused(file_bytes("{\"\xFF\": 1}"), "corrupt header");
  check_refused(file_bytes(one), "truncated: tensor \"a\" ends at offset");
  check_refused(file_bytes(one, "abc"), "download it again");
  check_refused(file_bytes(one, "abcde"), "corrupt: tensors end at offset");
  check_refused(
      file_bytes(header(entry("a", "[1]", "[0,4]") + "," + entry("a", "[1]", "[4,8]")), four + four),
      "two entries \"a\"");
}

TEST_CASE("entries that cannot be") {
  const auto refused = [](const std::string& entries, const std::string& words) {
    check_refused(file_bytes(header(entries), std::string(8, '\0')), words);
  };
  refused("\"a\":3", "tensor \"a\": corrupt header entry");
  refused("\"a\":{\"dtype\":\"F32\",\"shape\":[2]}", "corrupt header entry");
  refused("\"a\":{\"dtype\":5,\"shape\":[2],\"data_offsets\":[0,8]}", "corrupt header entry");
  refused(entry("a", "\"2\"", "[0,8]"), "corrupt header entry");
  refused(entry("a", "[2]", "[0,8]", "F4"), "tensor \"a\": unknown element type \"F4\"");
  refused(entry("a", "[-2]", "[0,8]"), "impossible shape [-2]");
  refused(entry("a", "[4611686018427387904, 4]", "[0,8]"), "impossible shape");
  refused(entry("a", "[3]", "[0,8]"), "offsets [0,8] do not hold 12 bytes of shape [3]");
  refused(entry("a", "[2]", "[8,0]"), "do not hold 8 bytes");
  refused(entry("a", "[2]", "[0,8,16]"), "do not hold 8 bytes");
  refused(entry("a", "[2]", "[-8,0]"), "corrupt header entry: ");
  refused(entry("a", "[2]", "[0,8.0]"), "not a whole number");
  refused(entry("a", "[2.5]", "[0,8]"), "not a whole number");
  refused(entry("a", "[1]", "[4,8]"), "starts at offset");
  refused(entry("a", "[1]", "[0,4]"), "tensors end at offset");
  refused(entry("a", "[2]", "[0,8]") + "," + entry("b", "[1]", "[4,8]"), "tensors overlap");
  refused(entry("a", "[1]", "[0,4]") + "," + entry("b", "[0]", "[6,6]"), "a hole");
}

TEST_CASE("names cannot steer the terminal or look like lines of ours") {
  const std::string name = R"(a\u001b[2J\nFAILED: all is well)";  // as JSON writes them
  check_refused(file_bytes(header(entry(name, "[3]", "[0,8]")), std::string(8, '\0')),
                R"(tensor "a\x1b[2J\nFAILED: all is well": offsets)");
}

TEST_CASE("what cannot be written") {
  const Folder folder;
  const auto nowhere = caught([&] { write_safetensors(folder / "x/w.safetensors", {{"a", two}}); });
  CHECK(nowhere.code == ExitCode::io);
  const auto twice = caught([&] { write_safetensors(folder / "w.safetensors", {{"a", two}, {"a", two}}); });
  CHECK(twice.code == ExitCode::internal);
  const auto complex = caught([&] {
    write_safetensors(folder / "w.safetensors", {{"a", at::zeros({2}, at::kComplexFloat)}});
  });
  CHECK(complex.code == ExitCode::internal);
  CHECK_FALSE(fs::exists(folder / "w.safetensors"));
  CHECK(format_shape({2, 3}) == "[2, 3]");
  CHECK(format_shape({}) == "[]");
}
