// Expected values were produced by Python's html.unescape and by diffusers' prompt_clean without ftfy.
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/io/prompt_clean.h"
#include "tests/support/catch.h"

namespace {

using frameshard::clean_prompt;
using Cases = std::vector<std::pair<std::string, std::string>>;

void check(const Cases& cases) {
  for (const auto& [prompt, cleaned] : cases) {
    CAPTURE(prompt);
    CHECK(clean_prompt(prompt) == cleaned);
  }
}

void check_refused(const std::string& prompt, const std::string& where) {
  CAPTURE(where);
  try {
    clean_prompt(prompt);
    FAIL("the prompt was taken");
  } catch (const frameshard::Error& error) {
    CHECK(error.code() == frameshard::ExitCode::config);
    CHECK(std::string(error.what()).find("prompt is not valid UTF-8 at " + where + " ") != std::string::npos);
  }
}

}  // namespace

TEST_CASE("clean_prompt leaves plain text as it is", "[prompt]") {
  check({{"", ""},
         {"a red circle", "a red circle"},
         {"caf\u00e9 \u732b", "caf\u00e9 \u732b"},
         {"</s>", "</s>"}});
}

TEST_CASE("clean_prompt folds white space as the reference does", "[prompt]") {
  check({{"  two\t\n squares \r\n", "two squares"},
         {"a\u2003\u3000\u0085\vb", "a b"},
         {"a\u00a0\u1680\u2028\u2029\u202f\u205fb", "a b"},
         {"a\u200bb", "a\u200bb"},
         {" \t\u3000", ""},
         {"\x1c"
          "a\x1c"
          "b\x1f",
          "a\x1c"
          "b"},
         {"a\x1c b", "a\x1c b"}});
}

TEST_CASE("clean_prompt resolves named references", "[prompt]") {
  check({{"&lt", "<"},
         {"&LT;&GT", "<>"},
         {"&notin;", "\u2209"},
         {"&notit;", "\u00acit;"},
         {"&ampersand", "&ersand"},
         {"&AMPx", "&x"},
         {"&am;", "&am;"},
         {"&apos &apos;", "&apos '"},
         {"&fjlig;", "fj"},
         {"&Eacute;t&eacute", "\u00c9t\u00e9"},
         {"a&nbsp;b", "a b"},
         {"&CounterClockwiseContourIntegral;", "\u2233"},
         {"&CounterClockwiseContourIntegralx;", "&CounterClockwiseContourIntegralx;"},
         {"& && &; &", "& && &; &"}});
}

TEST_CASE("clean_prompt resolves references twice, not three times", "[prompt]") {
  check({{"&amp;lt;", "<"}, {"&amp;amp;lt;", "&lt;"}, {"&amp;#65;", "A"}});
}

TEST_CASE("clean_prompt resolves numeric references", "[prompt]") {
  check({{"&#x1F600;", "\U0001f600"},
         {"&#128512x", "\U0001f600x"},
         {"&#0;", "\ufffd"},
         {"&#x80;", "\u20ac"},
         {"&#x81;|", "\u0081|"},
         {"&#xD800;", "\ufffd"},
         {"&#x110000;", "\ufffd"},
         {"&#99999999999999999999;", "\ufffd"},
         {"a&#1;b&#xFFFE;c&#x7f;d", "abcd"},
         {"a&#13;b", "a b"},
         {"a&#28;b", "ab"},
         {"&#; &#x; &#xg;", "&#; &#x; &#xg;"}});
}

TEST_CASE("clean_prompt refuses what is not UTF-8", "[prompt]") {
  check_refused("ab\xff", "byte 2");
  check_refused("\xc3", "byte 0");
  check_refused("\xc3\xa9\xc0\x80", "byte 2");
  check_refused("a\xed\xa0\x80", "byte 1");
  check_refused("\xe0\x80\x80", "byte 0");
  check_refused("\xf4\x90\x80\x80", "byte 0");
  check_refused("\xf0\x9f\x98", "byte 0");
}
