#include "core/request_source.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <vector>

#include "core/error.h"
#include "core/io/text_file.h"
#include "core/text.h"

namespace frameshard {
namespace {

namespace fs = std::filesystem;

YamlNode make_sequence(const Location& place) {
  YamlNode node;
  node.kind = YamlNode::Kind::sequence;
  node.location = place;
  return node;
}

YamlNode quoted(const std::string& text, const Location& place) {
  YamlNode node;
  node.kind = YamlNode::Kind::scalar;
  node.text = text;
  node.quoted = true;
  node.location = place;
  return node;
}

// ---- YAML ----

YamlNode read_yaml_list(const fs::path& file) {
  YamlNode tree = parse_yaml_file(file, max_requests_bytes);
  const bool wrapped = tree.kind == YamlNode::Kind::map && tree.entries.size() == 1 && tree.find("requests");
  if (wrapped) tree = YamlNode(tree.entries.front().value);
  if (tree.kind == YamlNode::Kind::null) return make_sequence(tree.location);
  if (tree.kind != YamlNode::Kind::sequence) {
    fail(ExitCode::config,
         "{}: a file of requests holds a list of mappings, or one key, requests, with that list",
         tree.location.text());
  }
  return tree;
}

// ---- JSON lines ----

// The number in four hexadecimal digits after the "\u" at `at`.
std::optional<unsigned> escaped_unit(std::string_view line, std::size_t at) {
  if (line.substr(at, 2) != "\\u" || line.size() < at + 6) return std::nullopt;
  unsigned unit = 0;
  const auto result = std::from_chars(line.data() + at + 2, line.data() + at + 6, unit, 16);
  if (result.ptr != line.data() + at + 6) return std::nullopt;
  return unit;
}

// JSON is YAML but for one thing: it writes characters above U+FFFF as two escapes (RFC 8259, 7), YAML as
// one.
std::string join_surrogates(std::string_view line) {
  std::string out;
  for (std::size_t i = 0; i < line.size();) {
    const auto high = escaped_unit(line, i), low = high ? escaped_unit(line, i + 6) : std::nullopt;
    if (low && *high >= 0xD800 && *high < 0xDC00 && *low >= 0xDC00 && *low < 0xE000) {
      out += fmt::format("\\U{:08x}", 0x10000 + ((*high - 0xD800) << 10) + (*low - 0xDC00));
      i += 12;
    } else {
      const std::size_t length = line[i] == '\\' ? 2 : 1;  // an escaped backslash starts no escape
      out += line.substr(i, length);
      i += length;
    }
  }
  return out;
}

YamlNode read_json_lines(const fs::path& file) {
  const std::string text = read_text_file(file, max_requests_bytes, "a file of requests");
  if (text.size() > max_requests_bytes) {
    fail(ExitCode::config, "{}: longer than {} MiB; split it", file.string(), max_requests_bytes >> 20);
  }
  YamlNode list = make_sequence({std::make_shared<const std::string>(file.string()), 1, 1});
  std::string_view rest = text;
  if (rest.starts_with("\xEF\xBB\xBF")) rest.remove_prefix(3);  // a byte order mark
  for (std::size_t number = 1; !rest.empty(); ++number) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    // The line says it all: a column would be off behind a joined pair.
    const std::string place = fmt::format("{}:{}", file.string(), number);
    list.items.push_back(parse_yaml_text(join_surrogates(line), place, Positions::hidden));
  }
  return list;
}

// ---- a directory of texts ----

YamlNode read_prompt(const fs::path& file) {
  std::string text = read_text_file(file, max_yaml_bytes, "a text file");
  const Location place{std::make_shared<const std::string>(file.string()), 1, 1};
  if (text.size() > max_yaml_bytes) {
    fail(ExitCode::config, "{}: longer than {} MiB, which no prompt needs", file.string(),
         max_yaml_bytes >> 20);
  }
  if (valid_text_prefix(text) < text.size()) {
    fail(ExitCode::config, "{}: not valid UTF-8 at byte {}; save the file as UTF-8", file.string(),
         valid_text_prefix(text));
  }
  if (text.find_first_not_of(" \t\r\n") == std::string::npos) {
    fail(ExitCode::bad_data, "{}: holds no prompt; write one, or take the file out of the directory",
         file.string());
  }
  if (text.ends_with('\n')) text.pop_back();
  if (text.ends_with('\r')) text.pop_back();
  YamlNode request;
  request.kind = YamlNode::Kind::map;
  request.location = place;
  request.entries.push_back({quoted("id", place), quoted(file.stem().string(), place)});
  request.entries.push_back({quoted("prompt", place), quoted(text, place)});
  return request;
}

YamlNode read_prompts(const fs::path& directory) {
  std::vector<fs::path> files;
  std::error_code error;
  fs::directory_iterator entry(directory, error);
  for (const fs::directory_iterator end; !error && entry != end; entry.increment(error)) {
    if (entry->path().extension() == ".txt") files.push_back(entry->path());
  }
  if (error) fail(ExitCode::io, "{}: cannot be listed: {}", directory.string(), error.message());
  std::sort(files.begin(), files.end());
  YamlNode list = make_sequence({std::make_shared<const std::string>(directory.string()), 0, 0});
  for (const fs::path& file : files) list.items.push_back(read_prompt(file));
  return list;
}

YamlNode read_any(const fs::path& path) {
  std::error_code ignored;
  const auto status = fs::status(path, ignored);
  if (fs::is_directory(status)) return read_prompts(path);
  if (status.type() == fs::file_type::not_found) {
    fail(ExitCode::missing_file, "requests: {}: no such file or directory", path.string());
  }
  const std::string kind = path.extension().string();
  if (kind == ".yaml" || kind == ".yml") return read_yaml_list(path);
  if (kind == ".jsonl") return read_json_lines(path);
  fail(ExitCode::config, "requests: {}: a .yaml, .yml or .jsonl file is wanted, or a directory of .txt files",
       path.string());
}

}  // namespace

YamlNode read_requests(const fs::path& path) {
  YamlNode list = read_any(path);
  if (list.items.empty()) {
    fail(ExitCode::bad_data, "{}: holds no request{}", path.string(),
         fs::is_directory(path) ? "; each .txt file in it would be a prompt" : "");
  }
  return list;
}

}  // namespace frameshard
