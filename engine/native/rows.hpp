// The rows of an array, which are the vectors along its last axis, wherever they lie in memory.
#pragma once

#include <cstdint>
#include <vector>

#include "primitive.hpp"
#include "strided.hpp"

namespace bramley {

class Rows {
 public:
  explicit Rows(const mx::array& a)
      : all_(a), data_(a.data<float>()), length_(a.shape(-1)), number_(length_ == 0 ? 0 : a.size() / length_) {
    if (a.strides(-1) != 1 && length_ > 1) return;
    in_place_ = true;
    for (size_t axis = 0; axis + 1 < a.ndim(); ++axis) add_axis(a.shape(axis), a.strides(axis));
  }

  int64_t number() const { return number_; }
  int length() const { return length_; }

  // Rows whose own elements lie apart are copied to `storage`. Call it when the stream has come to the array.
  void bring_together(std::vector<float>& storage) {
    if (in_place_) return;
    data_ = all_.dense(storage);
    shape_ = {number_};
    strides_ = {length_};
  }

  const float* operator[](int64_t row) const {
    if (shape_.size() == 1) return data_ + row * strides_[0];
    int64_t place = 0;
    for (size_t axis = shape_.size(); axis-- > 0; row /= shape_[axis]) place += row % shape_[axis] * strides_[axis];
    return data_ + place;
  }

 private:
  // Axes that lie as one are kept as one.
  void add_axis(int64_t size, int64_t stride) {
    if (size == 1) return;
    if (!shape_.empty() && strides_.back() == size * stride) {
      shape_.back() *= size;
      strides_.back() = stride;
    } else {
      shape_.push_back(size);
      strides_.push_back(stride);
    }
  }

  Strided<float> all_;
  const float* data_;
  int length_;
  int64_t number_;
  bool in_place_ = false;
  std::vector<int64_t> shape_, strides_;
};

// An array whose elements lie side by side; weights do already, and cost nothing then.
inline mx::array side_by_side(const mx::array& a, mx::Stream stream) {
  const bool known = a.status() == mx::array::Status::available;
  return known && a.flags().row_contiguous ? a : mx::contiguous(a, false, stream);
}

// Numbers of elements that are worth handing to another thread.
constexpr int64_t kElementsPerPart = 1 << 14;

}  // namespace bramley
