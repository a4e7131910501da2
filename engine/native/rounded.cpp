// See rounded.hpp.
#include "rounded.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "lanes.hpp"

namespace bramley {
namespace {

constexpr float kLargest = 32767.0f;
typedef float FloatVector __attribute__((vector_size(64)));
typedef int32_t WordVector __attribute__((vector_size(64)));
typedef int32_t HalfVector __attribute__((vector_size(32)));

float largest_magnitude(const float* x, int count) {
  WordVector most{};  // as integers, magnitudes of floats have the same order
  for (int i = 0; i < count; i += 16) {
    WordVector bits;
    std::memcpy(&bits, x + i, sizeof bits);
    bits &= 0x7fffffff;
    most = bits > most ? bits : most;
  }
  int32_t largest = 0;
  for (int i = 0; i < 16; ++i) largest = std::max(largest, most[i]);
  float value;
  std::memcpy(&value, &largest, sizeof value);
  return value;
}

}  // namespace

RoundedRows::RoundedRows(const PanelLayout& layout, int rows)
    : layout_(layout),
      rows_(rows),
      values_(new int16_t[static_cast<size_t>(rows) * layout.columns]),
      factors_(new float[static_cast<size_t>(rows) * layout.groups() * 2]) {
#if defined(BRAMLEY_BYTE_PRODUCTS)
  if (rows == 1 && layout.bits == 4 && !layout.table) split_.reset(new uint8_t[static_cast<size_t>(layout.columns) * 2]);
#endif
}

void RoundedRows::read(int row, const float* x) {
  const int units = layout_.group_size / kUnit;
  for (int group = 0; group < layout_.groups(); ++group) {
    int16_t* values = values_.get() + group * units * stride() + row * kUnit;
    round_group(x + group * layout_.group_size, values, factors_.get() + (static_cast<size_t>(group) * rows_ + row) * 2);
  }
  if (split_ != nullptr) split_row();
}

void RoundedRows::split_row() {
  const int16_t* values = values_.get();
  uint8_t* out = split_.get();
  for (int word = 0; word < layout_.columns / 8; ++word, values += 8, out += 16) {
    // Even columns 0, 2, 4, 6, then odd ones, where pairs of columns lie four apart.
    constexpr int kOrder[8] = {0, 4, 1, 5, 2, 6, 3, 7};
    for (int i = 0; i < 8; ++i) {
      const auto value = static_cast<uint16_t>(values[kOrder[i]]);
      out[i] = static_cast<uint8_t>(value >> 8);
      out[8 + i] = static_cast<uint8_t>(value);
    }
  }
}

void RoundedRows::clear(int row) {
  for (int unit = 0; unit < layout_.columns / kUnit; ++unit) {
    std::fill_n(values_.get() + unit * stride() + row * kUnit, kUnit, int16_t{0});
  }
  for (int group = 0; group < layout_.groups(); ++group) {
    std::fill_n(factors_.get() + (static_cast<size_t>(group) * rows_ + row) * 2, 2, 0.0f);
  }
  if (split_ != nullptr) split_row();
}

void RoundedRows::copy_row(int row, const RoundedRows& from, int source) {
  for (int unit = 0; unit < layout_.columns / kUnit; ++unit) {
    const int16_t* values = from.values_.get() + unit * from.stride() + source * kUnit;
    std::copy_n(values, kUnit, values_.get() + unit * stride() + row * kUnit);
  }
  for (int group = 0; group < layout_.groups(); ++group) {
    const float* factors = from.factors_.get() + (static_cast<size_t>(group) * from.rows_ + source) * 2;
    std::copy_n(factors, 2, factors_.get() + (static_cast<size_t>(group) * rows_ + row) * 2);
  }
  if (split_ != nullptr) split_row();
}

void RoundedRows::round_group(const float* x, int16_t* values, float* factors) const {
  const float largest = largest_magnitude(x, layout_.group_size);
  const float scale = largest / kLargest;
  // A group of zeros or of numbers too small for a scale is zero; infinities and NaN show in the factors.
  const float inverse = scale > 1e-30f ? 1.0f / scale : 0.0f;
  WordVector sums{};
  for (int i = 0; i < layout_.group_size; i += 16) {
    FloatVector part;
    std::memcpy(&part, x + i, sizeof part);
    part *= inverse;
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer, halves to even.
    part = (part + 12582912.0f) - 12582912.0f;
    const WordVector whole = __builtin_convertvector(part, WordVector);
    sums += whole;
    HalfVector low, high;
    if (layout_.bits == 4) {
      low = __builtin_shufflevector(whole, whole, 0, 1, 2, 3, 8, 9, 10, 11);
      high = __builtin_shufflevector(whole, whole, 4, 5, 6, 7, 12, 13, 14, 15);
    } else {
      low = __builtin_shufflevector(whole, whole, 0, 1, 4, 5, 8, 9, 12, 13);
      high = __builtin_shufflevector(whole, whole, 2, 3, 6, 7, 10, 11, 14, 15);
    }
    const HalfVector pairs = (low & 0xffff) | (high << 16);
    std::memcpy(values + i / kUnit * stride() + i % kUnit, &pairs, sizeof pairs);
  }
  int32_t sum = 0;
  for (int i = 0; i < 16; ++i) sum += sums[i];
  factors[0] = scale;
  factors[1] = scale * static_cast<float>(sum);
}

}  // namespace bramley
