// Grapheme clusters: what a reader sees as one character.
#pragma once

#include <cstddef>
#include <string_view>

namespace frameshard::tokenizing {

/// Bytes of the cluster at the start of `text`, which is not empty. Clusters of 6 bytes and more may come out
/// in parts: the rules for Hangul syllables and flags are left out (grapheme.cpp says why).
std::size_t cluster_size(std::string_view text);

}  // namespace frameshard::tokenizing
