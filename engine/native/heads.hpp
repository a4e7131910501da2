// Arrays of one vector per row, head and position, wherever their elements lie: (rows, heads, length, width), or as
// projections leave them, (rows, length, heads * width).
#pragma once

#include <cstdint>
#include <vector>

#include "primitive.hpp"
#include "strided.hpp"

namespace bramley {

class Heads {
 public:
  // width: of a vector
  Heads(const mx::array& a, int width)
      : all_(a), data_(a.data<float>()), rows_(a.shape(0)), width_(width), joined_(a.ndim() == 3) {
    const int last = static_cast<int>(a.ndim()) - 1;
    in_place_ = a.strides(last) == 1 || a.shape(last) == 1;
    heads_ = joined_ ? a.shape(2) / width : a.shape(1);
    length_ = a.shape(joined_ ? 1 : 2);
    set_strides(a.strides(0), joined_ ? width : a.strides(1), a.strides(joined_ ? 1 : 2));
  }

  int rows() const { return rows_; }
  int heads() const { return heads_; }
  int length() const { return length_; }
  int width() const { return width_; }

  // Vectors whose own elements lie apart are copied to `storage`. Call it when the stream has come to the array.
  void bring_together(std::vector<float>& storage) {
    if (in_place_) return;
    data_ = all_.dense(storage);
    const int64_t across = static_cast<int64_t>(heads_) * width_, along = static_cast<int64_t>(length_) * width_;
    set_strides(across * length_, joined_ ? width_ : along, joined_ ? across : width_);
  }

  const float* at(int row, int head, int position) const {
    return data_ + row * strides_[0] + head * strides_[1] + position * strides_[2];
  }

 private:
  void set_strides(int64_t row, int64_t head, int64_t position) {
    strides_[0] = row;
    strides_[1] = head;
    strides_[2] = position;
  }

  Strided<float> all_;
  const float* data_;
  int rows_, heads_, length_, width_;
  bool joined_, in_place_;
  int64_t strides_[3];
};

}  // namespace bramley
