// The vocabulary of the tokeniser, and how it cuts a word into pieces.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace frameshard::tokenizing {

// The same ids in every T5 model; read_model() checks it.
inline constexpr int64_t kPadId = 0;
inline constexpr int64_t kEosId = 1;
inline constexpr int64_t kUnkId = 2;

/// A piece of the vocabulary.
struct Piece {
  std::string text;
  double score;  ///< the logarithm of its probability
};

/// The pieces with their scores, and the search for the best segmentation of a word.
class Unigram {
 public:
  /// A piece's id is its place in `pieces`.
  explicit Unigram(const std::vector<Piece>& pieces);

  /// The id of `piece`, if it is one.
  std::optional<int64_t> find(std::string_view piece) const;
  /// Adds the ids of the best segmentation of `word`.
  void append_word(std::vector<int64_t>& ids, std::string_view word) const;

 private:
  struct Node {  // the best path that ends here
    double score = 0;
    std::size_t start = 0;
    int64_t id = kUnkId;
    bool reached = false;
  };
  static void offer(Node& node, double score, std::size_t start, int64_t id);
  void extend(std::vector<Node>& nodes, std::string_view word, std::size_t start) const;

  struct Hash : std::hash<std::string_view> {
    using is_transparent = void;
  };
  std::unordered_map<std::string, int64_t, Hash, std::equal_to<>> ids_;
  std::vector<double> scores_;
  double unk_score_ = 0;
  std::size_t longest_ = 0;  // bytes of the longest piece
};

}  // namespace frameshard::tokenizing
