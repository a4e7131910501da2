// Keys or values as a cache stores them: 32-bit or 16-bit floats, or integers of 8 or 4 bits with a scale and a bias
// per group, as MLX quantises them. Knows places, nothing of sequences.
#pragma once

#include <cstdint>

#include "lanes.hpp"
#include "quantized_head.hpp"
#include "primitive.hpp"

namespace bramley {

// One array of (slots, heads, places, width), or of (slots, places, heads * width) where `width` is given, last axis
// dense; strides in bytes.
struct Plane {
  const uint8_t* data = nullptr;
  int64_t slot_stride = 0, head_stride = 0, place_stride = 0;

  Plane() = default;
  explicit Plane(const mx::array& a, int width = 0) : data(a.data<uint8_t>()) {
    const auto item = static_cast<int64_t>(a.itemsize());
    const bool joined = a.ndim() == 3;
    slot_stride = a.strides(0) * item;
    head_stride = (joined ? width * a.strides(2) : a.strides(1)) * item;
    place_stride = a.strides(joined ? 1 : 2) * item;
  }

  const uint8_t* at(int slot, int head, int place) const {
    return data + slot * slot_stride + head * head_stride + place * place_stride;
  }
};

class Stored {
 public:
  // One plane, or three: quantised integers, scales and biases in float32.
  Stored(const std::vector<mx::array>& planes, int bits)
      : values_(planes[0]), dtype_(planes[0].dtype()), quantization_{bits, planes[0].shape(3), 0} {
    if (bits == 0) return;
    scales_ = Plane(planes[1]);
    biases_ = Plane(planes[2]);
    quantization_ = {bits, planes[0].shape(3) * 32 / bits, planes[1].shape(3)};
  }

  int width() const { return quantization_.width; }
  const HeadQuantization& quantization() const { return quantization_; }

  // Where the stored floats themselves can be read: float32 only.
  bool plain() const { return quantization_.bits == 0 && dtype_ == mx::float32; }
  const float* plain_at(int slot, int head, int place) const {
    return reinterpret_cast<const float*>(values_.at(slot, head, place));
  }
  int64_t plain_stride() const { return values_.place_stride / static_cast<int64_t>(sizeof(float)); }

  void read(int slot, int head, int place, float* out) const {
    const uint8_t* from = values_.at(slot, head, place);
    if (quantization_.bits != 0) {
      dequantize_head(quantization_, from, reinterpret_cast<const float*>(scales_.at(slot, head, place)),
                  reinterpret_cast<const float*>(biases_.at(slot, head, place)), out);
    } else if (dtype_ == mx::float32) {
      std::memcpy(out, from, sizeof(float) * quantization_.width);
    } else if (dtype_ == mx::float16) {
      widen(reinterpret_cast<const Half*>(from), out);
    } else {
      widen(reinterpret_cast<const BFloat*>(from), out);
    }
  }

 private:
  template <class T>
  void widen(const T* from, float* out) const {
    int i = 0;
    for (; i + kLanes <= quantization_.width; i += kLanes) store(out + i, load(from + i));
    for (; i < quantization_.width; ++i) out[i] = to_float(from[i]);
  }

  Plane values_, scales_, biases_;
  mx::Dtype dtype_;
  HeadQuantization quantization_;
};

}  // namespace bramley
