// The products inside attention, for as many queries as the registers hold: with a block's keys, and weights with its
// values. Every sum goes through the dimensions, or the keys, one by one.
#pragma once

#include <cstdint>

#include "vector.hpp"

namespace bramley {

constexpr int kBlock = 64;     // keys whose softmax is taken at once
constexpr int kTile = 6;       // queries computed together
#if defined(BRAMLEY_AVX512) || defined(BRAMLEY_NEON)
constexpr int kVectors = 4;  // by which kTile sums fit into the registers
#else
constexpr int kVectors = 2;
#endif
constexpr int kTileKeys = kVectors * kWidth;

// Vectors of `width` floats that will be read next, one per `stride`; none where `next` is null.
struct Upcoming {
  const float* next = nullptr;
  int64_t stride = 0;
  int width = 0;

  // Asks for vector `number`. An address past the end does no harm.
  BRAMLEY_INLINE void fetch(int number) const {
    if (next == nullptr) return;
    for (int i = 0; i < width; i += 16) __builtin_prefetch(next + number * stride + i);
  }
};

// Sums of products over `dims` for `queries` rows with kTileKeys keys, which lie side by side for each dimension.
template <int queries>
void multiply_keys(const float* q, int dims, const float* keys, float* scores, const Upcoming& upcoming) {
  Vector sums[queries][kVectors] = {};
  for (int dim = 0; dim < dims; ++dim, keys += kTileKeys) {
    if (dim < kBlock) upcoming.fetch(dim);
    Vector k[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) k[v] = read_vector(keys + v * kWidth);
#pragma GCC unroll 6
    for (int i = 0; i < queries; ++i) {
      const Vector x = spread(q[i * dims + dim]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[i][v] += x * k[v];
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < queries; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) write_vector(scores + i * kBlock + v * kWidth, sums[i][v]);
  }
}

// totals = totals * decay + weights @ values, for `vectors` vectors of the values' width and keys [begin, end).
template <int queries, int vectors>
void add_values(const float* weights, const float* decay, const float* values, int64_t stride, int begin, int end,
                float* totals, int width, const Upcoming& upcoming) {
  Vector sums[queries][vectors];
#pragma GCC unroll 6
  for (int i = 0; i < queries; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) sums[i][v] = read_vector(totals + i * width + v * kWidth) * decay[i];
  }
  for (int key = begin; key < end; ++key) {
    upcoming.fetch(key);
    Vector value[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) value[v] = read_vector(values + key * stride + v * kWidth);
#pragma GCC unroll 6
    for (int i = 0; i < queries; ++i) {
      const Vector weight = spread(weights[i * kBlock + key]);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) sums[i][v] += weight * value[v];
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < queries; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) write_vector(totals + i * width + v * kWidth, sums[i][v]);
  }
}

// Calls body with its template argument chosen at run time, in [1, kTile].
template <class Body>
BRAMLEY_INLINE void with_queries(int number, const Body& body) {
  switch (number) {
    case 1: return body.template operator()<1>();
    case 2: return body.template operator()<2>();
    case 3: return body.template operator()<3>();
    case 4: return body.template operator()<4>();
    case 5: return body.template operator()<5>();
    default: return body.template operator()<kTile>();
  }
}

inline void multiply_keys(int queries, const float* q, int dims, const float* keys, float* scores,
                          const Upcoming& upcoming) {
  with_queries(queries, [&]<int number>() { multiply_keys<number>(q, dims, keys, scores, upcoming); });
}

// `width` is in whole vectors.
inline void add_values(int queries, const float* weights, const float* decay, const float* values, int64_t stride,
                       int begin, int end, float* totals, int width, const Upcoming& upcoming) {
  const auto add = [&]<int vectors>(int column) {
    with_queries(queries, [&]<int number>() {
      add_values<number, vectors>(weights, decay, values + column, stride, begin, end, totals + column, width,
                                  column == 0 ? upcoming : Upcoming{});
    });
  };
  int column = 0;
  for (; column + kTileKeys <= width; column += kTileKeys) add.template operator()<kVectors>(column);
  for (; column < width; column += kWidth) add.template operator()<1>(column);
}

}  // namespace bramley
