// Arrays of shape (rows, heads, length, width) wherever their elements lie: one vector per row, head and position.
#pragma once

#include <cstdint>
#include <vector>

#include "primitive.hpp"
#include "strided.hpp"

namespace bramley {

class Heads {
 public:
  explicit Heads(const mx::array& a)
      : all_(a), data_(a.data<float>()), rows_(a.shape(0)), heads_(a.shape(1)), length_(a.shape(2)), width_(a.shape(3)) {
    in_place_ = a.strides(3) == 1 || width_ == 1;
    for (int axis = 0; axis < 3; ++axis) strides_[axis] = a.strides(axis);
  }

  int rows() const { return rows_; }
  int heads() const { return heads_; }
  int length() const { return length_; }
  int width() const { return width_; }

  // Vectors whose own elements lie apart are copied to `storage`. Call it when the stream has come to the array.
  void bring_together(std::vector<float>& storage) {
    if (in_place_) return;
    data_ = all_.dense(storage);
    strides_[2] = width_;
    strides_[1] = strides_[2] * length_;
    strides_[0] = strides_[1] * heads_;
  }

  const float* at(int row, int head, int position) const {
    return data_ + row * strides_[0] + head * strides_[1] + position * strides_[2];
  }

 private:
  Strided<float> all_;
  const float* data_;
  int rows_, heads_, length_, width_;
  bool in_place_;
  int64_t strides_[3];
};

}  // namespace bramley
