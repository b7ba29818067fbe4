// Where a run puts its files: <output.directory>/<config name>/[<request id>/][sample-<i>/].
#pragma once

#include <filesystem>
#include <string>

namespace frameshard {

/// The name of a config file's run, its stem: a directory below the output directory and nowhere else. 78 for
/// one that cannot be.
std::string run_name(const std::filesystem::path& config_file);

/// Makes a directory and those above it; 74 where it cannot.
void make_output_directory(const std::filesystem::path& directory);

/// Makes the directory, removes what a killed run left half-written in it, and proves that files can be made
/// there, before any work is done. 74 where it cannot be.
void prepare_output_directory(const std::filesystem::path& directory);

/// Removes the reports of failures of earlier runs, which must not be taken for this one's.
void remove_failure_reports(const std::filesystem::path& directory);

/// True where a complete output is there: a finished run writes its video last.
bool has_complete_output(const std::filesystem::path& request_directory);

}  // namespace frameshard
