#include "core/io/run_directory.h"

#include "core/error.h"
#include "core/io/atomic_file.h"
#include "core/text.h"

namespace frameshard {
namespace fs = std::filesystem;

std::string run_name(const fs::path& config_file) {
  std::string name = config_file.stem().string();
  if (name == "." || name == "..") {
    fail(ExitCode::config, "{}: the name of a config file names its outputs; {} cannot", config_file.string(),
         quote_for_message(name));
  }
  return name;
}

void make_output_directory(const fs::path& directory) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) {
    fail(ExitCode::io, "{}: the output directory cannot be made: {}; set output.directory",
         directory.string(), error.message());
  }
}

void prepare_output_directory(const fs::path& directory) {
  make_output_directory(directory);
  remove_stale_temporaries(directory);
  AtomicFile probe(directory / "probe");  // never committed
  probe.write(std::string_view("x"));
}

void remove_failure_reports(const fs::path& directory) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(directory, ignored)) {
    const std::string name = entry.path().filename().string();
    const bool report = name.starts_with("error.rank") && name.ends_with(".json");
    if (report || name.starts_with(".failure-")) fs::remove(entry.path(), ignored);
  }
}

bool has_complete_output(const fs::path& request_directory) {
  return fs::is_regular_file(request_directory / "video.mp4");
}

}  // namespace frameshard
