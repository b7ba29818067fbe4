#include "core/io/tokenizer/model_files.h"

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <iterator>

#include <nlohmann/json.hpp>
#ifdef FRAMESHARD_HAVE_SENTENCEPIECE
#include <sentencepiece_processor.h>
#endif

#include "core/error.h"

namespace frameshard::tokenizing {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::string bytes{std::istreambuf_iterator<char>(in), {}};
  if (!in.good() && !in.eof())
    fail(ExitCode::bad_data, "{} cannot be read; check its permissions", path.string());
  return bytes;
}

/// One field of a protocol buffers message; numbers keep no text.
struct Field {
  uint64_t number;
  std::string_view text;
};

[[noreturn]] void bad_model() {
  fail(ExitCode::bad_data, "spiece.model ends within a field; fetch the tokenizer again");
}

uint64_t take_varint(std::string_view& message) {
  uint64_t value = 0;
  for (unsigned shift = 0; shift < 64; shift += 7) {
    if (message.empty()) bad_model();
    const auto byte = static_cast<unsigned char>(message.front());
    message.remove_prefix(1);
    value |= static_cast<uint64_t>(byte & 0x7Fu) << shift;
    if (byte < 0x80) return value;
  }
  bad_model();
}

std::string_view take_bytes(std::string_view& message, uint64_t size) {
  if (size > message.size()) bad_model();
  const std::string_view bytes = message.substr(0, size);
  message.remove_prefix(size);
  return bytes;
}

Field take_field(std::string_view& message) {
  const uint64_t key = take_varint(message);
  switch (key & 7) {
    case 0:
      take_varint(message);
      return {key >> 3, {}};
    case 1:
      take_bytes(message, 8);
      return {key >> 3, {}};
    case 2:
      return {key >> 3, take_bytes(message, take_varint(message))};
    case 5:
      take_bytes(message, 4);
      return {key >> 3, {}};
    default:
      bad_model();
  }
}

/// The text of a message's field, empty where it has none.
std::string_view find_field(std::string_view message, uint64_t number) {
  while (!message.empty()) {
    const Field field = take_field(message);
    if (field.number == number) return field.text;
  }
  return {};
}

std::string decode_base64(std::string_view text) {
  static constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    const std::size_t value = kDigits.find(c);
    if (value == std::string_view::npos) break;  // the padding
    bits = (bits << 6) | static_cast<uint32_t>(value);
    count += 6;
    if (count < 8) continue;
    count -= 8;
    out.push_back(static_cast<char>(static_cast<unsigned char>(bits >> count)));
  }
  return out;
}

}  // namespace

#ifdef FRAMESHARD_HAVE_SENTENCEPIECE

Model read_model(const fs::path& tokenizer_dir) {
  const fs::path path = tokenizer_dir / "spiece.model";
  if (!fs::is_regular_file(path)) {
    fail(ExitCode::missing_file, "the tokenizer's model {} is not there; the model folder needs it",
         path.string());
  }
  Model model{read_file(path), {}};
  sentencepiece::SentencePieceProcessor processor;
  const auto status = processor.LoadFromSerializedProto(model.bytes);
  if (!status.ok()) {
    fail(ExitCode::bad_data, "{} is not a sentencepiece model ({}); fetch the tokenizer again", path.string(),
         status.ToString());
  }
  const bool is_t5 = processor.PieceToId("<pad>") == kPadId && processor.PieceToId("</s>") == kEosId &&
                     processor.unk_id() == kUnkId;
  if (!is_t5) {
    fail(ExitCode::bad_data, "{} is no T5 tokenizer: ids 0, 1 and 2 are not <pad>, </s> and <unk>",
         path.string());
  }
  for (int id = 0; id < processor.GetPieceSize(); ++id)
    model.pieces.push_back({processor.IdToPiece(id), processor.GetScore(id)});
  return model;
}

#else

Model read_model(const fs::path& tokenizer_dir) {
  fail(
      ExitCode::config,
      "{} cannot be read: the engine was built without sentencepiece; install libsentencepiece-dev and build "
      "again",
      tokenizer_dir.string());
}

#endif

std::string_view model_charsmap(std::string_view bytes) {
  // Field 3 of the model is the normaliser, its field 2 the character map (sentencepiece_model.proto).
  return find_field(find_field(bytes, 3), 2);
}

json read_json(const fs::path& path) {
  if (!fs::exists(path)) return nullptr;
  const auto skip_model = [](int depth, json::parse_event_t event, json& parsed) {
    return !(depth == 1 && event == json::parse_event_t::key && parsed == "model");
  };
  try {
    json document = json::parse(read_file(path), skip_model);
    if (document.is_object()) return document;
  } catch (const json::exception& error) {
    fail(ExitCode::bad_data, "{} is not valid JSON ({}); fetch the tokenizer again", path.string(),
         error.what());
  }
  fail(ExitCode::bad_data, "{} does not hold a JSON object; fetch the tokenizer again", path.string());
}

std::string json_charsmap(const json& tokenizer) {
  const json normalizer = tokenizer.value("normalizer", json());
  if (!normalizer.is_object()) return {};
  const bool sequence = normalizer.value("type", "") == "Sequence";
  for (const json& step : sequence ? normalizer.at("normalizers") : json::array({normalizer})) {
    if (step.value("type", "") == "Precompiled" && step.contains("precompiled_charsmap")) {
      return decode_base64(step.at("precompiled_charsmap").get_ref<const std::string&>());
    }
  }
  return {};
}

}  // namespace frameshard::tokenizing
