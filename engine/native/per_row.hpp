// A whole number per row of a batch: one for all rows, or an array of them.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/variant.h>

#include <cstdint>
#include <variant>
#include <vector>

#include "primitive.hpp"

namespace bramley {

using Number = std::variant<int, mx::array>;

class PerRow {
 public:
  // Adds the array, if it is one, to the inputs of a primitive.
  PerRow(const Number& given, int rows, std::vector<mx::array>& inputs, mx::Stream stream) {
    if (const int* number = std::get_if<int>(&given)) {
      number_ = *number;
      return;
    }
    const mx::array& numbers = std::get<mx::array>(given);
    if (numbers.shape() != mx::Shape{rows} || !mx::issubdtype(numbers.dtype(), mx::integer)) {
      throw std::invalid_argument("There must be one whole number per row.");
    }
    input_ = static_cast<int>(inputs.size());
    inputs.push_back(mx::astype(numbers, mx::int32, stream));
  }

  // Each row's own number.
  static PerRow identity() {
    PerRow numbers;
    numbers.step_ = 1;
    return numbers;
  }

  // For the task: the numbers may not be known earlier.
  void find(const std::vector<mx::array>& inputs) {
    if (input_ < 0) return;
    numbers_ = inputs[input_].data<int32_t>();
    stride_ = inputs[input_].strides(0);
  }

  int operator[](int row) const { return numbers_ == nullptr ? number_ + row * step_ : numbers_[row * stride_]; }

 private:
  PerRow() = default;

  int number_ = 0, step_ = 0;
  int input_ = -1;
  const int32_t* numbers_ = nullptr;
  int64_t stride_ = 1;
};

}  // namespace bramley
