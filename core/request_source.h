// Requests that are kept beside the configuration: `requests: prompts.jsonl` and the like.
#pragma once

#include <filesystem>

#include "core/yaml_tree.h"

namespace frameshard {

/// The largest file of requests that is read.
inline constexpr std::size_t max_requests_bytes = std::size_t{64} << 20;

/// A list of mappings, as if it had been written in place of `path`, each node with the place it came from:
///   FILE.yaml, FILE.yml  a list of mappings, or a mapping with the one key `requests`
///   FILE.jsonl           a mapping a line; blank lines are skipped
///   a directory          each *.txt, sorted by name, is one prompt; the file's stem is the id
/// 66 where nothing is there or no regular file, 65 where it holds no request or a text no prompt, 78 with
/// the place for what cannot be read, 74 where the disk fails.
YamlNode read_requests(const std::filesystem::path& path);

}  // namespace frameshard
