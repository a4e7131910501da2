// Primitives that write into arrays of theirs instead of copying them.
#pragma once

#include <algorithm>
#include <cstring>

#include "primitive.hpp"
#include "strided.hpp"
#include "threads.hpp"

namespace bramley {

constexpr int64_t kBytesPerPart = 1 << 17;

// Copies the elements of an array, in order, to where they lie side by side.
class Copied {
 public:
  Copied(const mx::array& from, mx::array& to)
      : words_(from), halves_(from), bytes_(from), item_bytes_(from.itemsize()), to_(to.data<uint8_t>()) {}

  void run() const {
    if (item_bytes_ == 4) copy(words_);
    else if (item_bytes_ == 2) copy(halves_);
    else copy(bytes_);
  }

 private:
  template <class T>
  void copy(const Strided<T>& from) const {
    std::vector<T> storage;
    const auto* data = reinterpret_cast<const uint8_t*>(from.dense(storage));
    const size_t bytes = from.size() * sizeof(T);
    const int parts = static_cast<int>(bytes / kBytesPerPart + 1);
    parallel(parts, [&](int part) {
      const size_t begin = bytes * part / parts, end = bytes * (part + 1) / parts;
      std::memcpy(to_ + begin, data + begin, end - begin);
    });
  }

  Strided<uint32_t> words_;
  Strided<uint16_t> halves_;
  Strided<uint8_t> bytes_;
  size_t item_bytes_;
  uint8_t* to_;
};

class InPlacePrimitive : public CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;

 protected:
  // Each output refers to the inputs. One of them is enough, and an input can only be given on when it is the last.
  static void let_go(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
    for (auto& output : outputs) {
      if (&output.inputs() != &inputs && !output.is_tracer()) output.inputs().clear();
    }
  }

  // Gives an output the memory of an input that nobody else uses, or a copy of it.
  mx::array keep(const mx::array& input, mx::array& output) {
    if (input.is_donatable() && input.flags().row_contiguous) {
      output.copy_shared_buffer(input);
    } else {
      allocate(output);
      dispatch([copied = Copied(input, output)] { copied.run(); });
    }
    return output;
  }
};

}  // namespace bramley
