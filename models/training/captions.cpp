#include "models/training/captions.h"

#include <algorithm>
#include <charconv>
#include <sstream>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "core/io/json_file.h"
#include "core/io/text_file.h"
#include "core/text.h"

namespace frameshard {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMostCaptionBytes = std::size_t{1} << 20;
constexpr std::size_t kMostMetadataBytes = std::size_t{1} << 30;

/// A text file without a byte order mark and blanks around; 65 where it is none.
std::string read_utf8(const fs::path& file, std::size_t most_bytes, const char* wanted) {
  const std::string text = read_text_file(file, most_bytes, wanted);
  if (text.size() > most_bytes) {
    fail(ExitCode::bad_data, "{}: has more than {} bytes, {} is wanted", file.string(), most_bytes, wanted);
  }
  if (const std::size_t valid = valid_text_prefix(text); valid < text.size()) {
    fail(ExitCode::bad_data, "{}: is no UTF-8 text from byte {} on; save it as UTF-8", file.string(), valid);
  }
  return text;
}

std::string trimmed(std::string_view text) {
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) return "";
  return std::string(text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1));
}

/// A line of metadata.jsonl; `where` begins messages.
std::pair<std::string, std::string> parse_line(const std::string& line, const std::string& where) {
  const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object())
    fail(ExitCode::bad_data, "{}: is no JSON object: {}", where, quote_for_message(line));
  const auto text = [&](const char* key) { return json.contains(key) && json[key].is_string(); };
  if (!text("file_name")) fail(ExitCode::bad_data, "{}: has no text \"file_name\"", where);
  for (const char* key : {"caption", "text", "prompt"}) {
    if (text(key)) return {json["file_name"].get<std::string>(), trimmed(json[key].get<std::string>())};
  }
  fail(ExitCode::bad_data, "{}: has no text \"caption\", \"text\" or \"prompt\"", where);
}

}  // namespace

RepeatFolder repeat_folder(const fs::path& file) {
  RepeatFolder found;
  for (const fs::path& part : file.parent_path()) {
    const std::string name = part.string();
    const std::size_t digits = std::min(name.find_first_not_of("0123456789"), name.size());
    if (digits == 0 || digits == name.size() || name[digits] != '_') continue;
    constexpr int64_t most = 1'000'000;
    int64_t repeats = 0;
    const auto error = std::from_chars(name.data(), name.data() + digits, repeats).ec;
    if (error != std::errc() || repeats > most) {
      fail(ExitCode::bad_data,
           "{}: the folder's name {} means that what it holds is repeated {} times in an epoch; give it a "
           "name that does not begin with a number and _",
           file.string(), quote_for_message(name), name.substr(0, digits));
    }
    found = {repeats, trimmed(std::string_view(name).substr(digits + 1))};
  }
  return found;
}

Captions::Captions(fs::path folder, const std::vector<fs::path>& files, const std::vector<fs::path>& metadata)
    : folder_(std::move(folder)) {
  for (const fs::path& file : metadata) read_metadata(file, files);
}

void Captions::read_metadata(const fs::path& metadata, const std::vector<fs::path>& files) {
  const fs::path file = folder_ / metadata;
  std::istringstream lines(read_utf8(file, kMostMetadataBytes, "a text of JSON lines"));
  int64_t number = 0;
  for (std::string line; std::getline(lines, line);) {
    const std::string where = fmt::format("{}:{}", file.string(), ++number);
    line = trimmed(line);
    if (line.empty()) continue;
    const auto [name, caption] = parse_line(line, where);
    const fs::path relative = fs::path(name).lexically_normal();
    if (relative.is_absolute() || relative.begin() == relative.end() || *relative.begin() == "..") {
      fail(ExitCode::bad_data, "{}: {} is outside the folder; name files below it", where,
           quote_for_message(name));
    }
    const fs::path item = (metadata.parent_path() / relative).lexically_normal();
    if (!std::binary_search(files.begin(), files.end(), item)) {
      fail(ExitCode::bad_data, "{}: names {}, but there is no such video or picture in {}", where,
           quote_for_message(name), file.parent_path().string());
    }
    if (!metadata_.emplace(item, caption).second) {
      fail(ExitCode::bad_data, "{}: {} has a caption already", where, quote_for_message(name));
    }
  }
}

std::optional<std::string> Captions::of(const fs::path& file) const {
  std::string caption;
  const fs::path beside = folder_ / fs::path(file).replace_extension(".txt");
  if (std::error_code ignored; fs::exists(beside, ignored)) {
    caption = trimmed(read_utf8(beside, kMostCaptionBytes, "a caption"));
  } else if (const auto found = metadata_.find(file); found != metadata_.end()) {
    caption = found->second;
  } else {
    caption = repeat_folder(file).caption;
  }
  return caption.empty() ? std::nullopt : std::optional(caption);
}

}  // namespace frameshard
