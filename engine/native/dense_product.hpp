// Rows of activations times dense weights in panels, on all threads. Knows memory and layouts, nothing of MLX.
//
// A panel holds the sixteen rows' values of the first column, then those of the second, and so on; missing rows are 0.
#pragma once

#include <cstdint>
#include <vector>

#include "product.hpp"

namespace bramley {

struct DenseLayout {
  int columns;
  Scales type;  // of the values

  size_t value_bytes() const { return type == Scales::float32 ? 4 : 2; }
  size_t panel_bytes() const { return static_cast<size_t>(columns) * kLanes * value_bytes(); }
};

// See quantized_product.hpp.
void multiply(const DenseLayout& layout, const float* x, int rows, const Surroundings& around,
              const std::vector<Target>& targets);
void multiply_chosen(const DenseLayout& layout, const float* x, int sources, const uint8_t* stack, int stacked,
                           int rows, const uint32_t* chosen, int count, float* out);

}  // namespace bramley
