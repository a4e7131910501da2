// Arrays that are not dense in memory: where their elements are, and a dense copy of them.
#pragma once

#include <cstdint>
#include <vector>

#include "primitive.hpp"

namespace bramley {

// The data of an evaluated array that has to be dense.
template <class T>
const T* dense_data(const mx::array& a) {
  if (!a.flags().row_contiguous) throw std::invalid_argument("This array must be dense in memory.");
  return a.data<T>();
}

// The elements of an evaluated array in order, read through its strides when the stream comes to it.
template <class T>
class Strided {
 public:
  explicit Strided(const mx::array& a)
      : data_(a.data<T>()),
        size_(a.size()),
        dense_(a.flags().row_contiguous),
        shape_(a.shape().begin(), a.shape().end()),
        strides_(a.strides().begin(), a.strides().end()) {}

  size_t size() const { return size_; }

  // A dense version: the data itself, or a copy in `storage`.
  const T* dense(std::vector<T>& storage) const {
    if (dense_ || size_ == 0) return data_;
    storage.resize(size_);
    T* next = storage.data();
    copy(data_, 0, next);
    return storage.data();
  }

 private:
  void copy(const T* from, size_t axis, T*& next) const {
    if (axis == shape_.size()) {
      *next++ = *from;
      return;
    }
    for (int i = 0; i < shape_[axis]; ++i) copy(from + i * strides_[axis], axis + 1, next);
  }

  const T* data_;
  size_t size_;
  bool dense_;
  std::vector<int> shape_;
  std::vector<int64_t> strides_;
};

}  // namespace bramley
