// Rotary positions of one vector. A table holds what depends on the position alone and serves all heads.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "vector.hpp"

namespace bramley {

// pairs: of dimensions that are rotated; interleaved: pair i is (2 i, 2 i + 1), else (i, i + pairs)
struct Rotation {
  int pairs = 0;
  bool interleaved = false;
  float magnitude = 1.0f;  // of the rotated dimensions

  int table_size() const { return 2 * pairs; }
};

// Cosines, then sines of one position's angles, times the magnitude. The angle is rounded to float32 as MLX does it;
// what is left after whole quarter turns is found in double precision, so that late positions lose nothing more.
inline void fill_table(const Rotation& rotation, const float* periods, int position, float* table) {
  const int pairs = rotation.pairs;
  const float magnitude = rotation.magnitude;
  constexpr double kQuarterTurn = 1.57079632679489661923;
  for (int i = 0; i < pairs; ++i) {
    const float angle = static_cast<float>(position) * (1.0f / periods[i]);
    const double quarters = __builtin_rint(angle * (1 / kQuarterTurn));
    const float rest = static_cast<float>(angle - quarters * kQuarterTurn);
    const float square = rest * rest;
    const float cosine = ((2.443315711809948e-5f * square - 1.388731625493765e-3f) * square + 4.166664568298827e-2f) *
                             square * square - 0.5f * square + 1.0f;
    const float sine =
        ((-1.9515295891e-4f * square + 8.3321608736e-3f) * square - 1.6666654611e-1f) * square * rest + rest;
    const int64_t quadrant = static_cast<int64_t>(quarters);
    const bool swapped = (quadrant & 1) != 0;
    const float c = swapped ? sine : cosine, s = swapped ? cosine : sine;
    table[i] = ((quadrant + 1) & 2) != 0 ? -c * magnitude : c * magnitude;
    table[pairs + i] = (quadrant & 2) != 0 ? -s * magnitude : s * magnitude;
  }
}

inline void rotate_halves(const float* x, const float* table, int pairs, float* out) {
  for (int i = 0; i < pairs; i += kWidth) {
    const int present = std::min(kWidth, pairs - i);
    const Vector first = read_first(x + i, present), second = read_first(x + pairs + i, present);
    const Vector cosine = read_first(table + i, present), sine = read_first(table + pairs + i, present);
    write_first(out + i, first * cosine - second * sine, present);
    write_first(out + pairs + i, first * sine + second * cosine, present);
  }
}

inline void rotate_neighbours(const float* x, const float* table, int pairs, float* out) {
  for (int i = 0; i < pairs; ++i) {
    const float first = x[2 * i], second = x[2 * i + 1], cosine = table[i], sine = table[pairs + i];
    out[2 * i] = first * cosine - second * sine;
    out[2 * i + 1] = first * sine + second * cosine;
  }
}

// The rotated dimensions of x, then the others as they are.
inline void rotate_vector(const Rotation& rotation, const float* table, const float* x, int width, float* out) {
  (rotation.interleaved ? rotate_neighbours : rotate_halves)(x, table, rotation.pairs, out);
  std::copy(x + 2 * rotation.pairs, x + width, out + 2 * rotation.pairs);
}

}  // namespace bramley
