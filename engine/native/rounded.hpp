// Activations as 16-bit integers, one scale per group. Rounding to 15 bits keeps a product within 1e-4 of its norm.
#pragma once

#include <cstdint>
#include <memory>

#include "panels.hpp"

namespace bramley {

constexpr int kUnit = 32;

// Rows of activations: values[(unit * rows + row) * 32 + i] in units of 32 columns, factors[(group * rows + row) * 2].
// The two factors are the scale, and the scale times the sum of the group's integers.
// Pairs of values lie in the order in which the kernels take a word apart.
class RoundedRows {
 public:
  RoundedRows(const PanelLayout& layout, int rows);

  // Rounds one row, or makes it zero.
  void read(int row, const float* x);
  void clear(int row);

  // Copies one row of another set of the same layout.
  void copy_row(int row, const RoundedRows& from, int source);

  int number() const { return rows_; }
  static int bytes_per_column() { return sizeof(int16_t); }
  const int16_t* values() const { return values_.get(); }
  const float* factors() const { return factors_.get(); }

  // Of a single row with 4-bit weights: for each word of 8 columns the upper bytes of its even columns, of its odd ones,
  // then the lower bytes in the same way; 16 bytes in all. Null where there is no use for them.
  const uint8_t* split() const { return split_.get(); }

 private:
  void split_row();
  void round_group(const float* x, int16_t* values, float* factors) const;
  size_t stride() const { return static_cast<size_t>(rows_) * kUnit; }  // between units

  PanelLayout layout_;
  int rows_;
  std::unique_ptr<int16_t[]> values_;
  std::unique_ptr<float[]> factors_;
  std::unique_ptr<uint8_t[]> split_;
};

}  // namespace bramley
