// What CLI11 leaves to do about flags.
#pragma once

#include <string>

#include <CLI/CLI.hpp>

namespace frameshard {

/// A number from `low` to `high`. CLI::Range lets "nan" pass, which is neither below nor above.
inline CLI::Validator real_range(double low, double high) {
  const std::string range = fmt::format("[{:g} - {:g}]", low, high);
  return {[low, high, range](std::string& text) {
            double value = 0;
            const bool inside = CLI::detail::lexical_cast(text, value) && value >= low && value <= high;
            return inside ? std::string() : fmt::format("Value {} not in range {}", text, range);
          },
          "FLOAT in " + range};
}

/// The message of a refused command line. CLI11's own names the words that it does not know last to first.
inline std::string usage_message(const CLI::App& app, const CLI::ParseError& error) {
  if (!dynamic_cast<const CLI::ExtrasError*>(&error)) return error.what();
  return fmt::format("The following arguments were not expected: {}",
                     CLI::detail::join(app.remaining(/*recurse=*/true), " "));
}

}  // namespace frameshard
