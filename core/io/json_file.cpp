#include "core/io/json_file.h"

#include <fstream>

namespace frameshard {

Json read_json(const std::filesystem::path& file) {
  std::ifstream in(file);
  if (!std::filesystem::is_regular_file(file) || !in) {
    fail(ExitCode::missing_file, "{}: no such file; is the folder a complete diffusers checkpoint?",
         file.string());
  }
  try {
    Json json = Json::parse(in);
    if (!json.is_object()) fail(ExitCode::bad_data, "{}: not a JSON object", file.string());
    return json;
  } catch (const nlohmann::json::parse_error& error) {
    fail(ExitCode::bad_data, "{}: not valid JSON at byte {}: {}", file.string(), error.byte, error.what());
  }
}

}  // namespace frameshard
