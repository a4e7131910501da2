// How quantised weights lie in memory: panels of sixteen rows. Knows no arithmetic.
//
// A panel holds, group by group: 16 scales, 16 biases, then the group's words, 16 of each, one per row. A word holds 8
// values of 4 bits or 4 values of 8 bits, the first in the lowest bits, as in MLX's own layout. Missing rows of the last
// panel have scale and bias 0. Value = scale * level + bias, where the level passes through kTable first in mxfp4.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bramley {

enum class Scales { half, bfloat, float32 };

struct PanelLayout {
  int columns;
  int group_size;
  int bits;     // 4 or 8
  bool table;   // levels are mxfp4's codes
  Scales scales;

  int groups() const { return columns / group_size; }
  int words_per_group() const { return group_size * bits / 32; }
  size_t scale_bytes() const { return scales == Scales::float32 ? 4 : 2; }
  size_t group_bytes() const { return 32 * scale_bytes() + 64 * static_cast<size_t>(words_per_group()); }
  size_t panel_bytes() const { return group_bytes() * groups(); }
};

inline int panels_of(int rows) { return (rows + 15) / 16; }

// Twice the values of mxfp4's sixteen codes, plus 12: the 4-bit floats of OCP Microscaling Formats 1.0.
alignas(16) constexpr uint8_t kTable[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};
constexpr float kTableOffset = 12.0f;

// The first column of the pair in the lower half of word `index` of a group, as the kernels take words apart; the other
// one follows half a word later.
inline int pair_start(int index, int bits) {
  const int per_word = 32 / bits, pairs = per_word / 2;
  return index / pairs * per_word + index % pairs;
}

}  // namespace bramley
