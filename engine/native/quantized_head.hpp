// A head's vector as integers of 8 or 4 bits with a scale and a bias per group, as MLX's affine mode has them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "vector.hpp"

namespace bramley {

// How one vector of `width` floats is quantised; it is left as it is where bits is 0.
struct HeadQuantization {
  int bits = 0;
  int width = 0;
  int groups = 0;

  int group_size() const { return width / groups; }
  int bytes() const { return width * bits / 8; }
};

struct GroupScale {
  float scale, bias;
};

// The end of the range that is further from zero is kept exactly; zero is, too, up to its rounding.
inline GroupScale scale_of_group(const float* x, int size, int levels) {
  const auto [low, high] = std::minmax_element(x, x + size);
  const bool low_is_further = std::fabs(*low) > std::fabs(*high);
  const float edge = low_is_further ? *low : *high;
  const float step = std::max((*high - *low) / static_cast<float>(levels), 1e-7f);
  const float signed_step = low_is_further ? step : -step;
  const float steps = std::rint(edge / signed_step);
  return steps == 0.0f ? GroupScale{signed_step, 0.0f} : GroupScale{edge / steps, edge};
}

inline void quantize_head(const HeadQuantization& quantization, const float* x, uint8_t* out, float* scales,
                          float* biases) {
  const int levels = (1 << quantization.bits) - 1, size = quantization.group_size();
  for (int group = 0; group < quantization.groups; ++group, x += size) {
    const GroupScale found = scale_of_group(x, size, levels);
    scales[group] = found.scale;
    biases[group] = found.bias;
    const auto level = [&](float value) {
      return static_cast<uint8_t>(std::clamp(std::rint((value - found.bias) / found.scale), 0.0f, float(levels)));
    };
    if (quantization.bits == 8) {
      for (int i = 0; i < size; ++i) *out++ = level(x[i]);
    } else {
      for (int i = 0; i < size; i += 2) *out++ = static_cast<uint8_t>(level(x[i]) | level(x[i + 1]) << 4);
    }
  }
}

inline void dequantize_head(const HeadQuantization& quantization, const uint8_t* quantized, const float* scales,
                            const float* biases, float* out) {
  const int size = quantization.group_size();
  for (int group = 0; group < quantization.groups; ++group, out += size) {
    const float scale = scales[group], bias = biases[group];
    if (quantization.bits == 8) {
      for (int i = 0; i < size; ++i) out[i] = static_cast<float>(quantized[i]) * scale + bias;
      quantized += size;
    } else {
      for (int i = 0; i < size / 2; ++i) {
        out[2 * i] = static_cast<float>(quantized[i] & 15) * scale + bias;
        out[2 * i + 1] = static_cast<float>(quantized[i] >> 4) * scale + bias;
      }
      quantized += size / 2;
    }
  }
}

}  // namespace bramley
