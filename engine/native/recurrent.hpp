// What the scans of recurrent layers share: states that are replaced token by token, and functions of single numbers.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <vector>

#include "in_place.hpp"
#include "rows.hpp"
#include "vector.hpp"

namespace bramley {

using Arrays = std::vector<mx::array>;
using Optional = std::optional<mx::array>;

inline void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

inline void require_floats(const Arrays& arrays) {
  for (const auto& each : arrays) require(each.dtype() == mx::float32, "All arrays must be float32.");
}

// A state before and behind the new tokens; both may lie in the same memory. Without one before, it begins with zeros.
struct State {
  const float* before;
  float* behind;

  // Brings `count` numbers to where they are worked on.
  void begin(int64_t from, int64_t count) const {
    if (before == nullptr) {
      std::memset(behind + from, 0, sizeof(float) * count);
    } else if (before != behind) {
      std::memcpy(behind + from, before + from, sizeof(float) * count);
    }
  }
};

// A scan along the tokens. Outputs: one vector per token and head, and the state.
class Scan : public InPlacePrimitive {
 public:
  using InPlacePrimitive::InPlacePrimitive;

 protected:
  // before: null where the tokens are the first
  State prepare(const mx::array* before, const Arrays& inputs, Arrays& outputs) {
    let_go(inputs, outputs);
    allocate(outputs[0]);
    mx::array& behind = outputs[1];
    const bool ours = before != nullptr && before->is_donatable() && before->flags().row_contiguous;
    if (ours) behind.copy_shared_buffer(*before);
    else allocate(behind);
    return {before == nullptr ? nullptr : before->data<float>(), behind.data<float>()};
  }
};

// Calls body(index) for all indices in [0, number), each of which costs so many operations.
template <class Body>
void share_out(int64_t number, int64_t cost, Body&& body) {
  const int64_t worth = number * cost / kElementsPerPart + 1;
  const int parts = static_cast<int>(std::min<int64_t>({number, worth, 1024}));
  parallel(parts, [&](int part) {
    for (int64_t i = number * part / parts; i < number * (part + 1) / parts; ++i) body(i);
  });
}

inline float softplus(float x) { return std::max(x, 0.0f) + std::log1p(std::exp(-std::abs(x))); }
inline float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

}  // namespace bramley
