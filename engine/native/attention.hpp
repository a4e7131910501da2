// The arithmetic of attention over stored keys and values. Knows pointers and lengths; knows nothing of MLX's graph.
//
// Softmax is taken online over blocks of keys. Blocks and segments of blocks begin at fixed places, and every sum has
// one order, so a query's result does not depend on what is computed beside it: rows, heads, other queries, threads.
#pragma once

#include <cstdint>

#include "heads.hpp"
#include "per_row.hpp"
#include "rotary.hpp"
#include "stored.hpp"

namespace bramley {

// Addends to the scores, or booleans that say which keys are seen; strides in elements, 0 where it is the same for all.
struct ScoreMask {
  const float* addends = nullptr;
  const bool* seen = nullptr;
  int64_t row_stride = 0, head_stride = 0, query_stride = 0, key_stride = 0;
};

// Queries (rows, num_heads, length, head_dim) of row i against places [0, lengths[i]) of slot slots[i].
struct Attention {
  Heads queries;
  Stored keys, values;
  int num_slots, num_kv_heads, places;
  PerRow slots, lengths;
  float scale;
  float softcap;       // 0 for none
  bool causal;         // the last query sees all places, each one before it one less
  int window;          // each query sees the last `window` of its places; 0 for all
  const float* sinks;  // (num_heads,) logits that join the softmax's denominator, or null
  ScoreMask mask;
  Rotation rotation;            // of the queries
  const float* tables;  // (rows, length, rotation.table_size()), or null where nothing is rotated
  float* out;  // (rows, length, num_heads, values' width)
};

void attend(const Attention& attention);

}  // namespace bramley
