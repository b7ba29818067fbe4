#include "core/yaml_tree.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <sstream>
#include <unordered_map>

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include "core/error.h"
#include "core/io/text_file.h"
#include "core/text.h"

namespace frameshard {
namespace {

// yaml-cpp counts columns in bytes; people and editors count characters.
class Places {
 public:
  Places(std::string_view text, const std::string& source, Positions positions)
      : text_(text), source_(std::make_shared<const std::string>(source)), positions_(positions) {
    for (std::size_t i = 0; i < text.size(); ++i) {
      if (text[i] == '\n') lines_.push_back(i + 1);
    }
  }

  Location at(const YAML::Mark& mark) {
    if (positions_ == Positions::hidden) return {source_, 0, 0};
    const std::size_t line = std::min(static_cast<std::size_t>(std::max(mark.line, 0)), lines_.size() - 1);
    const auto bytes = static_cast<std::size_t>(std::max(mark.column, 0));
    // Marks come nearly in order, so the count goes on from the last one.
    if (line != line_ || bytes < bytes_) bytes_ = characters_ = 0;
    line_ = line;
    for (; bytes_ < bytes; ++bytes_) {
      const std::size_t here = lines_[line] + bytes_;
      const bool continues = here < text_.size() && (static_cast<unsigned char>(text_[here]) & 0xC0) == 0x80;
      if (!continues) ++characters_;
    }
    return {source_, static_cast<int>(line) + 1, static_cast<int>(characters_) + 1};
  }

  Location at_byte(std::size_t position) {
    const auto line = std::prev(std::upper_bound(lines_.begin(), lines_.end(), position));
    YAML::Mark mark;
    mark.line = static_cast<int>(line - lines_.begin());
    mark.column = static_cast<int>(position - *line);
    return at(mark);
  }

 private:
  std::string_view text_;
  std::shared_ptr<const std::string> source_;
  Positions positions_;
  std::vector<std::size_t> lines_{0};  // where each line starts
  std::size_t line_ = 0, bytes_ = 0, characters_ = 0;
};

template <class... Args>
[[noreturn]] void fail_at(const Location& where, fmt::format_string<Args...> format, Args&&... args) {
  fail(ExitCode::config, "{}: {}", where.text(), fmt::format(format, std::forward<Args>(args)...));
}

class TreeBuilder : public YAML::EventHandler {
 public:
  explicit TreeBuilder(Places& places) : places_(places) {}

  YamlNode take_root() { return std::move(root_); }
  // The innermost list or mapping that is still open, else the last thing read.
  YAML::Mark open_mark() const { return stack_.empty() ? last_ : stack_.back().mark; }
  YAML::Mark last_mark() const { return last_; }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++documents_ == 1) return;
    fail_at(places_.at(mark),
            "text after the end of the document: a second document, or a line indented less than the first");
  }
  void OnDocumentEnd() override {}

  void OnAnchor(const YAML::Mark& mark, const std::string&) override { refuse_alias(mark); }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override { refuse_alias(mark); }

  void OnNull(const YAML::Mark& mark, YAML::anchor_t) override {
    YamlNode node = make(mark, YamlNode::Kind::null);
    // yaml-cpp puts an empty value where the next thing starts; people look at its key.
    const auto* key = !stack_.empty() && stack_.back().key ? &*stack_.back().key : nullptr;
    if (key && key->location.line < node.location.line) node.location = key->location;
    add(std::move(node));
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t,
                const std::string& value) override {
    refuse_tag(mark, tag);
    YamlNode node = make(mark, YamlNode::Kind::scalar);
    if (value.find('\0') != std::string::npos) fail_at(node.location, "a NUL character in a text");
    node.text = value;
    node.quoted = tag == "!";
    add(std::move(node));
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {
    open(mark, tag, YamlNode::Kind::sequence);
  }
  void OnSequenceEnd() override { close(); }

  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t,
                  YAML::EmitterStyle::value) override {
    open(mark, tag, YamlNode::Kind::map);
  }
  void OnMapEnd() override { close(); }

 private:
  struct Frame {
    YamlNode node;
    YAML::Mark mark;
    std::optional<YamlNode> key;
    std::unordered_map<std::string, Location> seen;
  };

  YamlNode make(const YAML::Mark& mark, YamlNode::Kind kind) {
    last_ = mark;
    YamlNode node;
    node.kind = kind;
    node.location = places_.at(mark);
    return node;
  }

  [[noreturn]] void refuse_alias(const YAML::Mark& mark) {
    fail_at(places_.at(mark), "anchors (&name) and aliases (*name) are not accepted; write the value out");
  }

  // "?" is a plain value and "!" a quoted one: yaml-cpp gives these where the text has no tag.
  void refuse_tag(const YAML::Mark& mark, const std::string& tag) {
    if (tag.empty() || tag == "?" || tag == "!") return;
    fail_at(places_.at(mark), "tags are not accepted, got {}; write the value without it",
            quote_for_message(tag));
  }

  void open(const YAML::Mark& mark, const std::string& tag, YamlNode::Kind kind) {
    refuse_tag(mark, tag);
    YamlNode node = make(mark, kind);
    if (wants_key())
      fail_at(node.location, "a key must be a word, not a list or a mapping (or a bracket is not closed)");
    if (static_cast<int>(stack_.size()) >= max_yaml_depth) {
      fail_at(node.location, "nested deeper than {} levels", max_yaml_depth);
    }
    stack_.push_back({std::move(node), mark, std::nullopt, {}});
  }

  void close() {
    YamlNode node = std::move(stack_.back().node);
    stack_.pop_back();
    add(std::move(node));
  }

  bool wants_key() const {
    return !stack_.empty() && stack_.back().node.kind == YamlNode::Kind::map && !stack_.back().key;
  }

  void add(YamlNode node) {
    if (stack_.empty()) {
      root_ = std::move(node);
    } else if (wants_key()) {
      add_key(std::move(node));
    } else if (Frame& top = stack_.back(); top.key) {
      top.node.entries.push_back({std::move(*top.key), std::move(node)});
      top.key.reset();
    } else {
      top.node.items.push_back(std::move(node));
    }
  }

  void add_key(YamlNode node) {
    if (node.kind == YamlNode::Kind::null) fail_at(node.location, "a key must be a word, got null");
    if (node.text == "<<" && !node.quoted) {
      fail_at(node.location, "merge keys (<<) are not accepted; write the keys out");
    }
    Frame& top = stack_.back();
    const auto [first, added] = top.seen.emplace(node.text, node.location);
    if (!added) {
      const std::string key = quote_for_message(node.text);
      if (node.location.line == 0) fail_at(node.location, "the key {} is given twice", key);
      fail_at(node.location, "the key {} is given twice: in line {} and in line {}", key, first->second.line,
              node.location.line);
    }
    top.key = std::move(node);
  }

  Places& places_;
  YamlNode root_;
  std::vector<Frame> stack_;
  YAML::Mark last_;
  int documents_ = 0;
};

void check_characters(std::string_view text, Places& places) {
  const std::size_t valid = valid_text_prefix(text);
  if (valid < text.size()) {
    fail_at(places.at_byte(valid), "{}; save the file as UTF-8",
            text[valid] == '\0' ? "a NUL byte" : "not valid UTF-8");
  }
  // yaml-cpp takes the byte 4 for the end of the file and would drop what follows.
  const auto control = std::find_if(text.begin(), text.end(), [](unsigned char c) {
    return c < 0x20 && c != '\t' && c != '\n' && c != '\r';
  });
  if (control == text.end()) return;
  fail_at(places.at_byte(static_cast<std::size_t>(control - text.begin())),
          "the control character 0x{0:02x}; write it as \"\\x{0:02x}\" in double quotes",
          static_cast<int>(*control));
}

// Better words and places for the messages of yaml-cpp that mislead.
[[noreturn]] void fail_syntax(const YAML::Exception& error, const TreeBuilder& builder, Places& places,
                              int end_line) {
  // It may end with one byte of a longer character.
  const std::string message = error.msg.substr(0, valid_text_prefix(error.msg));
  if (message == YAML::ErrorMsg::UNKNOWN_ANCHOR) {
    fail_at(places.at(error.mark), "anchors (&name) and aliases (*name) are not accepted");
  }
  if (message == YAML::ErrorMsg::END_OF_SEQ_FLOW || message == YAML::ErrorMsg::END_OF_MAP_FLOW) {
    fail_at(places.at(builder.open_mark()), "syntax error: a [ or {{ is not closed, or a comma is missing");
  }
  const bool in_scalar = message == YAML::ErrorMsg::DOC_IN_SCALAR || message == YAML::ErrorMsg::EOF_IN_SCALAR;
  if (in_scalar && error.mark.line >= end_line) {
    fail_at(places.at(builder.last_mark()), "syntax error: the quotes opened after this are never closed");
  }
  const char* hint = message == YAML::ErrorMsg::MAP_VALUE
                         ? " (check the indentation; a text that contains \": \" needs quotes)"
                         : "";
  fail_at(places.at(error.mark), "syntax error: {}{}", message, hint);
}

}  // namespace

std::string Location::text() const {
  if (!source) return "config";
  return line == 0 ? *source : fmt::format("{}:{}:{}", *source, line, column);
}

const YamlNode* YamlNode::find(std::string_view key) const {
  for (const auto& [name, value] : entries) {
    if (name.text == key) return &value;
  }
  return nullptr;
}

YamlNode parse_yaml_file(const std::filesystem::path& file, std::size_t max_bytes) {
  return parse_yaml_text(read_text_file(file, max_bytes, "a YAML file"), file.string(), Positions::shown,
                         max_bytes);
}

YamlNode parse_yaml_text(std::string_view text, const std::string& source_name, Positions positions,
                         std::size_t max_bytes) {
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);  // a byte order mark
  Places places(text, source_name, positions);
  if (text.size() > max_bytes) {
    fail_at(places.at({}), "longer than {} MiB, which no config needs", max_bytes >> 20);
  }
  check_characters(text, places);
  // yaml-cpp ends an open quote at the end of the text without a word; a document end in it is an error.
  std::string closed(text);
  if (!closed.ends_with('\n')) closed += '\n';
  const int end_line = static_cast<int>(std::count(closed.begin(), closed.end(), '\n'));
  closed += "...\n";
  std::istringstream stream(closed);
  TreeBuilder builder(places);
  try {
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(builder)) {
    }
  } catch (const YAML::Exception& error) {
    fail_syntax(error, builder, places, end_line);
  }
  return builder.take_root();
}

}  // namespace frameshard
