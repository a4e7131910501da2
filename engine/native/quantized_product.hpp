// Rows of activations times quantised weights, on all threads. Knows memory and layouts, nothing of MLX.
#pragma once

#include <cstdint>
#include <vector>

#include "panels.hpp"
#include "product.hpp"

namespace bramley {

// out = x @ weight.T + bias + residual for every target, inside its surroundings. x: (rows, layout.columns), dense. All
// targets have this layout.
void multiply(const PanelLayout& layout, const float* x, int rows, const Surroundings& around,
              const std::vector<Target>& targets);

// out[i] = x[i * sources / count] @ stack[chosen[i]].T for `count` choices, of `stacked` weights of `rows` rows each.
void multiply_chosen(const PanelLayout& layout, const float* x, int sources, const uint8_t* stack, int stacked,
                     int rows, const uint32_t* chosen, int count, float* out);

}  // namespace bramley
