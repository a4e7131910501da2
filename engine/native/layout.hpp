// A panel layout from the words in which MLX describes a quantisation, and checks of what is given with it.
#pragma once

#include <stdexcept>
#include <string>

#include "panels.hpp"
#include "primitive.hpp"

namespace bramley {

inline Scales scales_of(mx::Dtype dtype) {
  if (dtype == mx::float16) return Scales::half;
  if (dtype == mx::bfloat16) return Scales::bfloat;
  if (dtype == mx::float32) return Scales::float32;
  throw std::invalid_argument("Scales must be float16, bfloat16 or float32.");
}

// Bits other than 4 and 8 are kept in the next larger of the two.
inline PanelLayout make_layout(int columns, int group_size, int bits, const std::string& mode, mx::Dtype scales) {
  const bool table = mode == "mxfp4", affine = mode == "affine";
  const bool sizes = table ? bits == 4 && group_size == 32 && scales == mx::uint8
                           : (bits >= 2 && bits <= 6) || bits == 8;
  if (!(affine || table) || !sizes || (group_size != 32 && group_size != 64 && group_size != 128) || columns < 1 ||
      columns % group_size != 0) {
    throw std::invalid_argument("There are no kernels for this quantisation.");
  }
  return {columns, group_size, bits <= 4 ? 4 : 8, table, table ? Scales::bfloat : scales_of(scales)};
}

inline void check_panels(const mx::array& panels, size_t panel_bytes, int rows) {
  if (panels.dtype() != mx::uint8 || panels.ndim() < 2 || rows < 1 || panels.shape(-2) != panels_of(rows) ||
      static_cast<size_t>(panels.shape(-1)) != panel_bytes) {
    throw std::invalid_argument("These panels do not belong to this layout.");
  }
}

}  // namespace bramley
