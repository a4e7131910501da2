// Floats as wide as a register, and functions of them. Knows no arrays; what a product needs is in lanes.hpp.
//
// Written with the compiler's own vectors: a function gives the same bits in every lane, whatever its neighbours hold.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>

#include "lanes.hpp"

namespace bramley {

#if defined(BRAMLEY_AVX512)
constexpr int kWidth = 16;
#elif defined(BRAMLEY_AVX2)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif

typedef float Vector __attribute__((vector_size(4 * kWidth)));
typedef int32_t Integers __attribute__((vector_size(4 * kWidth)));

constexpr float kInfinity = std::numeric_limits<float>::infinity();

BRAMLEY_INLINE Vector spread(float x) { return x - Vector{}; }

BRAMLEY_INLINE Vector read_vector(const float* p) {
  Vector all;
  std::memcpy(&all, p, sizeof all);
  return all;
}

BRAMLEY_INLINE void write_vector(float* p, Vector a) { std::memcpy(p, &a, sizeof a); }

// The first `count` lanes from memory, the others `rest`.
BRAMLEY_INLINE Vector read_first(const float* p, int count, float rest = 0.0f) {
  if (count >= kWidth) return read_vector(p);
  Vector all = spread(rest);
  std::memcpy(&all, p, sizeof(float) * count);
  return all;
}

BRAMLEY_INLINE void write_first(float* p, Vector a, int count) {
  if (count >= kWidth) {
    write_vector(p, a);
  } else {
    std::memcpy(p, &a, sizeof(float) * count);
  }
}

BRAMLEY_INLINE Integers as_integers(Vector a) { return reinterpret_cast<Integers>(a); }
BRAMLEY_INLINE Vector as_vector(Integers a) { return reinterpret_cast<Vector>(a); }

BRAMLEY_INLINE Vector larger(Vector a, Vector b) { return a > b ? a : b; }
BRAMLEY_INLINE Vector smaller(Vector a, Vector b) { return a < b ? a : b; }
BRAMLEY_INLINE Vector absolute(Vector a) { return as_vector(as_integers(a) & 0x7fffffff); }
BRAMLEY_INLINE Vector with_sign_of(Vector a, Vector sign) {
  return as_vector((as_integers(a) & 0x7fffffff) | (as_integers(sign) & std::numeric_limits<int32_t>::min()));
}

// 0, 1, 2, ...
BRAMLEY_INLINE Integers lane_numbers() {
  Integers all;
  for (int lane = 0; lane < kWidth; ++lane) all[lane] = lane;
  return all;
}

template <int half, int... lanes>
BRAMLEY_INLINE Vector swap_pieces(Vector a, std::integer_sequence<int, lanes...>) {
#if __has_builtin(__builtin_shufflevector)
  return __builtin_shufflevector(a, a, (lanes ^ half)...);
#else
  return __builtin_shuffle(a, Integers{(lanes ^ half)...});
#endif
}

// All lanes combined, halves first: one fixed order.
template <int half = kWidth / 2, class Combine>
BRAMLEY_INLINE float fold_lanes(Vector a, Combine combine) {
  a = combine(a, swap_pieces<half>(a, std::make_integer_sequence<int, kWidth>()));
  if constexpr (half > 1) return fold_lanes<half / 2>(a, combine);
  return a[0];
}

BRAMLEY_INLINE float sum_of(Vector a) {
  return fold_lanes(a, [](Vector x, Vector y) { return x + y; });
}

BRAMLEY_INLINE float largest_of(Vector a) { return fold_lanes(a, larger); }

// The powers of the exponential function below: x = n log 2 + rest, with n next to an integer and |rest| < 0.35.
struct Reduced {
  Integers n;
  Vector exponential_of_rest;
};

BRAMLEY_INLINE Reduced reduce_exponent(Vector x) {
  // Adding 1.5 * 2^23 rounds to an integer, which the sum's lowest bits then hold.
  constexpr float kRound = 12582912.0f;
  const Vector rounded = x * 1.44269504088896341f + kRound;
  const Vector n = rounded - kRound;
  const Vector rest = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vector p = spread(1.9875691500e-4f);
  p = p * rest + 1.3981999507e-3f;
  p = p * rest + 8.3334519073e-3f;
  p = p * rest + 4.1665795894e-2f;
  p = p * rest + 1.6666665459e-1f;
  p = p * rest + 5.0000001201e-1f;
  return {as_integers(rounded) - 0x4b400000, p * (rest * rest) + rest + 1.0f};
}

BRAMLEY_INLINE Vector power_of_two(Integers n) { return as_vector((n + 127) << 23); }

// exp(x) for every x, subnormal results included (Cephes' expf; about 1e-7 relative).
BRAMLEY_INLINE Vector exponential(Vector x) {
  x = smaller(larger(x, spread(-105.0f)), spread(89.0f));
  const Reduced reduced = reduce_exponent(x);
  const Integers half = reduced.n >> 1;
  return reduced.exponential_of_rest * power_of_two(half) * power_of_two(reduced.n - half);
}

// exp(x) for x <= 0, where results below 1e-37 may be 0.
BRAMLEY_INLINE Vector exponential_of_negative(Vector x) {
  const Vector clamped = larger(x, spread(-87.0f));
  const Reduced reduced = reduce_exponent(clamped);
  const Vector result = reduced.exponential_of_rest * power_of_two(reduced.n);
  return x < -87.0f ? Vector{} : result;
}

BRAMLEY_INLINE float exponential_of_negative(float x) { return exponential_of_negative(spread(x))[0]; }

// Cephes' tanhf: a polynomial near zero, the exponential function elsewhere.
BRAMLEY_INLINE Vector hyperbolic_tangent(Vector x) {
  const Vector magnitude = smaller(absolute(x), spread(10.0f));
  const Vector square = magnitude * magnitude;
  Vector p = spread(-5.70498872745e-3f);
  p = p * square + 2.06390887954e-2f;
  p = p * square - 5.37397155531e-2f;
  p = p * square + 1.33314422036e-1f;
  p = p * square - 3.33332819422e-1f;
  const Vector near_zero = p * square * magnitude + magnitude;
  const Vector elsewhere = 1.0f - 2.0f / (exponential(magnitude + magnitude) + 1.0f);
  return with_sign_of(magnitude < 0.625f ? near_zero : elsewhere, x);
}

// The share of the normal distribution below x: 0.5 erfc(-x / sqrt 2), to about 3e-7 relative in both tails.
BRAMLEY_INLINE Vector normal_share(Vector x) {
  // Phi(-a) = exp(-a^2 / 2) g(1 / (1 + a / 4)); g is a least-squares fit. a is cut in two so that its square is exact.
  const Vector a = smaller(absolute(x), spread(15.0f));
  const Vector t = 1.0f / (a * 0.25f + 1.0f);
  Vector g = spread(0.025723565369844437f);
  g = g * t - 0.15280970931053162f;
  g = g * t + 0.296122670173645f;
  g = g * t - 0.20578424632549286f;
  g = g * t + 0.20175908505916595f;
  g = g * t + 0.032927509397268295f;
  g = g * t + 0.10374680161476135f;
  g = g * t + 0.09851682931184769f;
  g = g * t + 0.09979747980833054f;
  const Vector high = as_vector(as_integers(a) & ~0xfff);
  const Vector small = (a - high) * (a + high) * -0.5f;
  const Vector correction = ((small * (1.0f / 6) + 0.5f) * small + 1.0f) * small + 1.0f;
  const Vector tail = exponential(high * high * -0.5f) * correction * (g * t);
  return x > Vector{} ? 1.0f - tail : tail;
}

// One round of the transposition below: a and b keep one half each and exchange the other, in pieces of `half` lanes.
template <int half, int... lanes>
BRAMLEY_INLINE void exchange(Vector& a, Vector& b, std::integer_sequence<int, lanes...>) {
#if __has_builtin(__builtin_shufflevector)
  const Vector first = __builtin_shufflevector(a, b, ((lanes & half) != 0 ? lanes - half + kWidth : lanes)...);
  b = __builtin_shufflevector(a, b, ((lanes & half) != 0 ? lanes + kWidth : lanes + half)...);
#else
  const Vector first = __builtin_shuffle(a, b, Integers{((lanes & half) != 0 ? lanes - half + kWidth : lanes)...});
  b = __builtin_shuffle(a, b, Integers{((lanes & half) != 0 ? lanes + kWidth : lanes + half)...});
#endif
  a = first;
}

// A square of vectors becomes its transpose: rows[i][j] and rows[j][i] change places.
template <int half = kWidth / 2>
BRAMLEY_INLINE void transpose(Vector (&rows)[kWidth]) {
#pragma GCC unroll 16
  for (int row = 0; row < kWidth; ++row) {
    if ((row & half) == 0) exchange<half>(rows[row], rows[row + half], std::make_integer_sequence<int, kWidth>());
  }
  if constexpr (half > 1) transpose<half / 2>(rows);
}

}  // namespace bramley
