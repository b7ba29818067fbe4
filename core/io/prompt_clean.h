// The cleaning of a prompt before it is tokenised, as diffusers' Wan pipeline does it.
#pragma once

#include <string>
#include <string_view>

namespace frameshard {

/// Cleans a prompt: HTML character references are resolved (twice, so that "&amp;lt;" becomes "<"), every
/// run of white space becomes one space, and white space at both ends is dropped.
///
/// Source of the rule: `prompt_clean` in diffusers' pipeline_wan.py as it runs where ftfy is not installed.
/// The references are resolved as Python's `html.unescape` does. The runs are of Unicode's White_Space (the
/// `\s` of the regex module, which the pipeline uses); both ends also lose U+001C to U+001F, which
/// `str.strip` takes for white space. The one known difference: a decimal reference of more than 4300 digits,
/// which Python refuses with an exception, becomes U+FFFD here like any other number above U+10FFFF.
///
/// Fails with ExitCode::config where `utf8` is not valid UTF-8, naming the offset (in bytes, from 0) of the
/// first byte of the bad sequence.
std::string clean_prompt(std::string_view utf8);

}  // namespace frameshard
