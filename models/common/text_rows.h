// The rows of a text embedding, of which the padding's are all alike.
//
// Wan pads a prompt to its full length with rows of 0, and attends to all of them. Equal rows give equal keys
// and values, and n equal keys weigh as much as one whose score has log(n) added to it: so a few rows stand
// for hundreds, and the result is the same. A prompt of 20 tokens, padded to 512, then takes a twentieth of
// the memory and of cross-attention's work.
#pragma once

#include <ATen/ATen.h>

namespace frameshard {

/// Rows of `text` [B, T, C] up to the last one that is not 0 in some element of the batch.
int64_t used_rows(const at::Tensor& text);

struct TextRows {
  at::Tensor text;    ///< [B, T', C], T' <= T: the rows in use and some of the padding's
  at::Tensor weight;  ///< [1, 1, 1, T'], added to the scores of the keys made from them; undefined: nothing
};

/// `dtype`: of the attention, and of `weight`. As many rows of the padding as it takes for their weights,
/// which are rounded to it, to add up to all of them within 1e-6.
TextRows text_rows(const at::Tensor& text, at::ScalarType dtype);

}  // namespace frameshard
