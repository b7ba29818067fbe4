// The engine's side of test_tokenizer.py: cleans and tokenises a list of prompts.
#include <cstdio>
#include <fstream>
#include <string>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/io/prompt_clean.h"
#include "core/io/tokenizer.h"

/// `argv` after the subcommand: <tokenizer_dir> <max_length> <in.json> <out.json>. Reads a list of strings,
/// writes a list of {"clean": str, "ids": [...], "length": n}. Returns the exit code of the program.
int probe_tokenize(int argc, char** argv) {
  using nlohmann::json;
  if (argc != 4) {
    fmt::print(stderr, "usage: tokenize TOKENIZER_DIR MAX_LENGTH IN.json OUT.json\n");
    return 64;
  }
  const frameshard::Tokenizer tokenizer(argv[0]);
  const int64_t max_length = std::stoll(argv[1]);
  std::ifstream in(argv[2]);
  json out = json::array();
  for (const json& prompt : json::parse(in)) {
    const std::string clean = frameshard::clean_prompt(prompt.get_ref<const std::string&>());
    const frameshard::TokenIds tokens = tokenizer.encode(clean, max_length);
    out.push_back({{"clean", clean}, {"ids", tokens.ids}, {"length", tokens.length}});
  }
  std::ofstream file(argv[3]);
  file << out.dump();
  file.close();
  return file ? 0 : 74;
}
