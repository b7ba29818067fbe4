#include "core/error.h"
#include "core/io/json_file.h"
#include "models/checkpoint.h"
#include "models/wan/make.h"

namespace frameshard {
namespace {

struct Family {
  const char* pipeline_class;
  CheckpointPtr (*open)(const std::filesystem::path& folder);
};

// One line a family.
constexpr Family families[] = {
    {"WanPipeline", wan::open_wan},
};

}  // namespace

CheckpointPtr open_checkpoint(const std::filesystem::path& folder) {
  std::error_code unreadable;
  if (!std::filesystem::is_directory(folder, unreadable)) {
    fail(ExitCode::missing_file, "model.path {}: no such folder; give the folder of a diffusers checkpoint",
         folder.string());
  }
  const auto file = folder / "model_index.json";
  const auto name = JsonReader(file).get<std::string>("_class_name");
  std::string known;
  for (const Family& family : families) {
    if (name == family.pipeline_class) return family.open(folder);
    known += (known.empty() ? "" : ", ") + std::string(family.pipeline_class);
  }
  fail(ExitCode::bad_data, "{}: the pipeline {} is unknown; known: {}", file.string(), name, known);
}

}  // namespace frameshard
