// A strict YAML reader: what a person could have meant in two ways is refused with file:line:column.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace frameshard {

/// Where a value was written.
struct Location {
  std::shared_ptr<const std::string> source;  ///< the file as the user named it, or a label
  int line = 0;                               ///< 1-based; 0 where lines say nothing (an override)
  int column = 0;                             ///< 1-based, in characters

  /// "file:line:column", or the source alone.
  std::string text() const;
};

struct YamlEntry;

/// One node of the tree; mappings keep the order of the file.
struct YamlNode {
  enum class Kind { null, scalar, sequence, map };

  Kind kind = Kind::null;
  std::string text;     ///< of a scalar
  bool quoted = false;  ///< a quoted or block scalar, which is a string whatever it looks like
  Location location;
  std::vector<YamlEntry> entries;  ///< of a map: keys are scalars, none twice
  std::vector<YamlNode> items;     ///< of a sequence

  /// The value of a map's key, or null.
  const YamlNode* find(std::string_view key) const;
};

struct YamlEntry {
  YamlNode key, value;
};

/// The largest file that is read, unless the caller says otherwise.
inline constexpr std::size_t max_yaml_bytes = std::size_t{1} << 20;
/// The deepest nesting of lists and mappings.
inline constexpr int max_yaml_depth = 64;

/// How a text's places are named in messages.
enum class Positions { shown, hidden };

/// Reads a YAML file. Throws missing_file, io, or config with "file:line:column: ".
YamlNode parse_yaml_file(const std::filesystem::path& file, std::size_t max_bytes = max_yaml_bytes);

/// Reads YAML from memory; an empty text is a null node.
YamlNode parse_yaml_text(std::string_view text, const std::string& source_name,
                         Positions positions = Positions::shown, std::size_t max_bytes = max_yaml_bytes);

}  // namespace frameshard
