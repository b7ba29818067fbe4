#include "core/io/tokenizer/unigram.h"

#include <algorithm>
#include <limits>

#include "core/io/tokenizer/utf8.h"

namespace frameshard::tokenizing {
namespace {

constexpr double kUnkPenalty = 10.0;  // below the worst score of the vocabulary

}  // namespace

Unigram::Unigram(const std::vector<Piece>& pieces) {
  double worst = std::numeric_limits<double>::infinity();
  for (const Piece& piece : pieces) {
    ids_[piece.text] = static_cast<int64_t>(scores_.size());
    scores_.push_back(piece.score);
    worst = std::min(worst, piece.score);
    longest_ = std::max(longest_, piece.text.size());
  }
  unk_score_ = worst - kUnkPenalty;
}

std::optional<int64_t> Unigram::find(std::string_view piece) const {
  const auto found = ids_.find(piece);
  return found == ids_.end() ? std::nullopt : std::optional<int64_t>(found->second);
}

void Unigram::offer(Node& node, double score, std::size_t start, int64_t id) {
  if (node.reached && score <= node.score) return;
  node = {score, start, id, true};
}

void Unigram::extend(std::vector<Node>& nodes, std::string_view word, std::size_t start) const {
  const double so_far = nodes[start].score;
  const std::size_t first = char_size(word, start);
  bool has_single = false;
  for (std::size_t size = first; start + size <= word.size() && size <= longest_;) {
    if (const auto id = find(word.substr(start, size))) {
      offer(nodes[start + size], scores_[static_cast<std::size_t>(*id)] + so_far, start, *id);
      has_single = has_single || size == first;
    }
    if (start + size == word.size()) break;
    size += char_size(word, start + size);
  }
  if (!has_single) offer(nodes[start + first], unk_score_ + so_far, start, kUnkId);
}

void Unigram::append_word(std::vector<int64_t>& ids, std::string_view word) const {
  std::vector<Node> nodes(word.size() + 1);
  for (std::size_t start = 0; start < word.size(); start += char_size(word, start))
    extend(nodes, word, start);
  const auto first = static_cast<std::ptrdiff_t>(ids.size());
  for (std::size_t end = word.size(); end > 0;) {
    std::size_t start = nodes[end].start;
    int64_t id = nodes[end].id;
    if (id == kUnkId) {
      while (start > 0 && nodes[start].id == kUnkId) start = nodes[start].start;
      id = find(word.substr(start, end - start)).value_or(kUnkId);
    }
    ids.push_back(id);
    end = start;
  }
  std::reverse(ids.begin() + first, ids.end());
}

}  // namespace frameshard::tokenizing
