#include <chrono>
#include <filesystem>
#include <string>

#include "core/text.h"
#include "core/yaml_tree.h"
#include "tests/support/catch.h"
#include "tests/support/config_files.h"
#include "tests/support/expect_error.h"

using namespace frameshard;
using frameshard::test::caught;
using frameshard::test::ConfigFile;

namespace {

YamlNode parse(const std::string& text) {
  return parse_yaml_text(text, "t.yaml");
}

// Every refusal is 78, at a place, with words that tell what to do.
void check_refused(const std::string& text, const std::string& place, const std::string& words) {
  INFO("text: " << quote_for_message(text));
  const auto error = caught([&] { parse(text); });
  INFO("message: " << error.message);
  CHECK(error.code == ExitCode::config);
  CHECK(error.message.starts_with("t.yaml:" + place + ": "));
  CHECK(error.has(words));
}

}  // namespace

TEST_CASE("a YAML tree keeps order, kinds, quotes and places") {
  const YamlNode root = parse("b: 010\na: [\"5\", ~, x y]\nc:\n  d: |\n    two\n    lines\ne:\n");
  REQUIRE(root.kind == YamlNode::Kind::map);
  REQUIRE(root.entries.size() == 4);
  CHECK(root.entries[0].key.text == "b");
  CHECK(root.find("b")->text == "010");
  CHECK_FALSE(root.find("b")->quoted);
  CHECK(root.find("b")->location.text() == "t.yaml:1:4");
  const YamlNode& list = *root.find("a");
  REQUIRE(list.items.size() == 3);
  CHECK(list.items[0].quoted);
  CHECK(list.items[0].text == "5");
  CHECK(list.items[1].kind == YamlNode::Kind::null);
  CHECK(list.items[2].text == "x y");
  CHECK(list.items[2].location.text() == "t.yaml:2:13");
  CHECK(root.find("c")->find("d")->text == "two\nlines\n");
  CHECK(root.find("c")->find("d")->quoted);
  CHECK(root.find("e")->kind == YamlNode::Kind::null);
  CHECK(root.find("missing") == nullptr);
}

TEST_CASE("an empty text is a null node, and a document may have its marks") {
  CHECK(parse("").kind == YamlNode::Kind::null);
  CHECK(parse("# only a comment\n").kind == YamlNode::Kind::null);
  CHECK(parse("---\na: 1\n...\n# end\n").find("a")->text == "1");
  CHECK(parse("\xEF\xBB\xBF"
              "a: 1")
            .find("a")
            ->location.text() == "t.yaml:1:4");
  CHECK(parse("a: 1\r\nb: 2\r\n").find("b")->location.text() == "t.yaml:2:4");
  CHECK(parse("a: b").find("a")->text == "b");
  CHECK(parse("a: 'it''s'").find("a")->text == "it's");
}

TEST_CASE("columns count characters, not bytes") {
  CHECK(parse("{红色: é, a: 1}").find("a")->location.text() == "t.yaml:1:12");
  CHECK(parse("é: 1\nb: [é, é]").find("b")->items[1].location.text() == "t.yaml:2:8");
}

TEST_CASE("duplicate keys name both lines") {
  check_refused("a: 1\nb: 2\na: 3\n", "3:1", "the key \"a\" is given twice: in line 1 and in line 3");
  check_refused("a:\n  b: 1\n  \"b\": 2\n", "3:3", "in line 2 and in line 3");
  check_refused("{a: 1, a: 2}", "1:8", "given twice");
  CHECK(parse("a: {x: 1}\nb: {x: 1}").entries.size() == 2);
}

TEST_CASE("anchors, aliases and merge keys are refused") {
  check_refused("a: &x 1\nb: *x\n", "1:4", "anchors");
  check_refused("a: *x\n", "1:4", "aliases");
  check_refused("&x a: 1\n", "1:1", "anchors");
  check_refused("a: &x [1]\n", "1:4", "anchors");
  check_refused("<<: {a: 1}\n", "1:1", "merge keys (<<)");
}

TEST_CASE("an alias bomb is refused at once") {
  std::string bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 9; ++i) {
    const std::string last = "*a" + std::to_string(i - 1), name = "a" + std::to_string(i);
    bomb += name + ": &" + name + " [";
    for (int k = 0; k < 9; ++k) bomb += last + (k < 8 ? ", " : "]\n");
  }
  const auto start = std::chrono::steady_clock::now();
  check_refused(bomb, "1:5", "anchors");
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::milliseconds(500));
}

TEST_CASE("a second document or text after the end is refused") {
  check_refused("a: 1\n---\nb: 2\n", "2:1", "a second document");
  check_refused("a: 1\n---\n", "2:1", "a second document");
  check_refused("a: 1\n...\nb: 2\n", "3:1", "a second document");
  check_refused("{a: 1} b\n", "1:8", "text after the end");
  check_refused("  a: 1\nb: 2\n", "2:1", "a line indented less than the first");
}

TEST_CASE("keys must be words") {
  check_refused("? [a]\n: 1\n", "1:3", "a key must be a word");
  check_refused("{a: 1}: 2\n", "1:1", "a key must be a word");
  check_refused("~: 1\n", "1:1", "a key must be a word, got null");
}

TEST_CASE("tags are refused") {
  check_refused("a: !!python/object:os.system x\n", "1:4", "tags are not accepted");
  check_refused("a: !!str 5\n", "1:4", "tags are not accepted");
  check_refused("a: !foo [1]\n", "1:4", "\"!foo\"");
  check_refused("a: !foo\n", "1:4", "\"!foo\"");
  check_refused("!!map {a: 1}\n", "1:1", "tags are not accepted");
}

TEST_CASE("syntax errors have a place") {
  check_refused("a: 1\n b: 2\n", "2:3", "needs quotes");
  check_refused("prompt: a ball: red\n", "1:15", "needs quotes");
  check_refused("a: [1, 2\n", "1:4", "is not closed");
  check_refused("x: 1\na: {b: 1\nc: 2\n", "2:4", "is not closed");
  check_refused("a: [1]]\n", "1:7", "syntax error");
  check_refused("a: @x\n", "1:4", "syntax error");
  check_refused("a: \"\\é\"\n", "1:7", "unknown escape");
  CHECK(valid_text_prefix(caught([] { parse("a: \"\\é\""); }).message) > 20);
  check_refused("%YAML 3.0\n---\na: 1\n", "1:1", "version");
}

TEST_CASE("a quote that is never closed is refused, not read to the end of the file") {
  check_refused("b: 1\na: 'x\n", "2:1", "never closed");
  check_refused("b: 1\na: 'x", "2:1", "never closed");
  check_refused("b: 1\na: \"x\nc: 2\n", "2:1", "never closed");
}

TEST_CASE("texts must be UTF-8 without control characters") {
  check_refused(std::string("a: 1\nb: x\0y\n", 12), "2:5", "NUL");
  check_refused("a: \xFF\n", "1:4", "not valid UTF-8");
  check_refused("a: \xC0\x80\n", "1:4", "not valid UTF-8");
  check_refused("a: \xED\xA0\x80\n", "1:4", "not valid UTF-8");
  check_refused("a: \xF4\x90\x80\x80\n", "1:4", "not valid UTF-8");
  check_refused("a: é\xE2\x82", "1:5", "not valid UTF-8");
  check_refused("a: 1\x04\nb: 2\n", "1:5", "control character 0x04");
  check_refused("a: \"x\\0y\"\n", "1:4", "NUL");
  check_refused(std::string("\xFF\xFE"
                            "a\0",
                            4),
                "1:1", "UTF-8");
  CHECK(parse("a: \"\\x04\\e\"").find("a")->text == "\x04\x1b");
}

TEST_CASE("nesting and size are limited") {
  const auto nested = [](int depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  CHECK(parse(nested(max_yaml_depth)).kind == YamlNode::Kind::sequence);
  check_refused(nested(max_yaml_depth + 1), "1:65", "nested deeper than 64");
  CHECK(caught([] { parse(std::string(max_yaml_bytes, '[')); }).code == ExitCode::config);
  CHECK(caught([] { parse(std::string(max_yaml_bytes, '{')); }).code == ExitCode::config);
  check_refused(std::string(max_yaml_bytes + 1, '#'), "1:1", "1 MiB");
  CHECK(parse("a: 1\n" + std::string(max_yaml_bytes - 5, '#')).find("a")->text == "1");
}

TEST_CASE("files that cannot be read") {
  const ConfigFile file("a: 1\na: 2\n");
  const std::string name = file.path().string();
  const auto duplicate = caught([&] { parse_yaml_file(file.path()); });
  CHECK(duplicate.message.starts_with(name + ":2:1: "));
  const auto missing = caught([&] { parse_yaml_file(name + ".not"); });
  CHECK(missing.code == ExitCode::missing_file);
  CHECK(missing.has(name + ".not: no such file"));
  CHECK(caught([&] { parse_yaml_file(name + "/x"); }).code == ExitCode::missing_file);
  const auto directory = caught([&] { parse_yaml_file(file.path().parent_path()); });
  CHECK(directory.code == ExitCode::missing_file);
  CHECK(directory.has("is a directory"));
  std::filesystem::permissions(file.path(), std::filesystem::perms::none);
  if (::geteuid() != 0) CHECK(caught([&] { parse_yaml_file(file.path()); }).code == ExitCode::io);
  const ConfigFile large(std::string(max_yaml_bytes + 1, '#'));
  CHECK(caught([&] { parse_yaml_file(large.path()); }).has("1 MiB"));
}

TEST_CASE("places can be hidden, for texts that are no file") {
  const auto error = caught([] { parse_yaml_text("{a: 1, a: 2}", "override x", Positions::hidden); });
  CHECK(error.message == "override x: the key \"a\" is given twice");
}

TEST_CASE("texts in messages are short and clean") {
  CHECK(quote_for_message("a\nb\x01") == "\"a\\nb\\x01\"");
  CHECK(quote_for_message(std::string(79, 'x') + "é") == "\"" + std::string(79, 'x') + "...\"");
  CHECK(one_line("é\x1b[2J\r\u009b\x7f") == "é\\x1b[2J\\x0d\\u009b\\x7f");
  CHECK(one_line(std::string(201, 'x')) == std::string(200, 'x') + "...");
  CHECK(quote_for_message("a\xFFz") == "\"a...\"");
}

TEST_CASE("the closest word") {
  const std::vector<std::string> known = {"width", "height", "num_frames", "num_inference_steps", "id"};
  CHECK(edit_distance("widht", "width") == 1);
  CHECK(edit_distance("", "abc") == 3);
  CHECK(closest_word("widht", known) == "width");
  CHECK(closest_word("Width", known) == "width");
  CHECK(closest_word("frames", known) == "num_frames");
  CHECK(closest_word("steps", known) == "num_inference_steps");
  CHECK(closest_word("num", known).empty());
  CHECK(closest_word("zebra", known).empty());
  CHECK(closest_word("xy", known).empty());
}
