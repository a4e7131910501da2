// Root-mean-square norm and layer norm. Rows are computed one by one: each sum has one order.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "primitive.hpp"
#include "rows.hpp"
#include "threads.hpp"
#include "vector.hpp"

namespace bramley {
namespace {

constexpr int kSums = 4;  // that do not wait for each other

// centred: layer norm, which subtracts the mean; offset: added to the weight
struct NormKind {
  bool centred;
  float eps;
  float offset;
};

struct Factors {
  const float* weight;  // may be null
  const float* bias;    // may be null
};

// The sum of of(i, lanes present) over a row, in steps of one vector.
template <class Term>
BRAMLEY_INLINE float sum_row(int length, Term of) {
  Vector sums[kSums] = {};
  int i = 0;
  for (; i + kSums * kWidth <= length; i += kSums * kWidth) {
#pragma GCC unroll 4
    for (int s = 0; s < kSums; ++s) sums[s] += of(i + s * kWidth, kWidth);
  }
  for (; i < length; i += kWidth) sums[0] += of(i, std::min(kWidth, length - i));
  return sum_of((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

void norm_row(const NormKind& kind, const Factors& factors, const float* x, float* out, int length) {
  const float mean =
      kind.centred ? sum_row(length, [&](int i, int present) { return read_first(x + i, present); }) / length : 0.0f;
  const float squares = sum_row(length, [&](int i, int present) {
    const Vector apart = read_first(x + i, present, mean) - mean;
    return apart * apart;
  });
  const float factor = 1.0f / std::sqrt(squares / length + kind.eps);
  for (int i = 0; i < length; i += kWidth) {
    const int present = std::min(kWidth, length - i);
    Vector y = (read_first(x + i, present) - mean) * factor;
    if (factors.weight != nullptr) y *= read_first(factors.weight + i, present) + kind.offset;
    if (factors.bias != nullptr) y += read_first(factors.bias + i, present);
    write_first(out + i, y, present);
  }
}

// Inputs: x, then weight and bias as far as they are given.
class Norm : public CpuPrimitive {
 public:
  Norm(mx::Stream stream, NormKind kind, bool weighted, bool biased)
      : CpuPrimitive(stream), kind_(kind), weighted_(weighted), biased_(biased) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    allocate(outputs[0]);
    const Factors factors{weighted_ ? inputs[1].data<float>() : nullptr,
                          biased_ ? inputs.back().data<float>() : nullptr};
    float* const out = outputs[0].data<float>();
    Rows rows(inputs[0]);
    if (rows.number() == 0) return;
    dispatch([kind = kind_, rows = std::move(rows), factors, out]() mutable { run(kind, rows, factors, out); });
  }

  const char* name() const override { return "Norm"; }

 private:
  static void run(const NormKind& kind, Rows& rows, const Factors& factors, float* out) {
    std::vector<float> storage;
    rows.bring_together(storage);
    const int64_t number = rows.number();
    const int length = rows.length();
    const int parts = static_cast<int>(std::min(number, number * length / kElementsPerPart + 1));
    parallel(parts, [&](int part) {
      for (int64_t row = number * part / parts; row < number * (part + 1) / parts; ++row) {
        norm_row(kind, factors, rows[row], out + row * length, length);
      }
    });
  }

  NormKind kind_;
  bool weighted_, biased_;
};

void check_factor(const std::optional<mx::array>& factor, const mx::array& x) {
  if (factor && (factor->dtype() != mx::float32 || factor->shape() != mx::Shape{x.shape(-1)})) {
    throw std::invalid_argument("Weight and bias must be float32, one number per column.");
  }
}

using Optional = std::optional<mx::array>;

mx::array norm(const NormKind& kind, const mx::array& x, const Optional& weight, const Optional& bias) {
  if (x.ndim() < 1 || x.dtype() != mx::float32) throw std::invalid_argument("x must be float32 with an axis.");
  check_factor(weight, x);
  check_factor(bias, x);
  const mx::Stream stream = cpu_stream();
  std::vector<mx::array> inputs{x};
  if (weight) inputs.push_back(side_by_side(*weight, stream));
  if (bias) inputs.push_back(side_by_side(*bias, stream));
  auto primitive = std::make_shared<Norm>(stream, kind, weight.has_value(), bias.has_value());
  return mx::array(x.shape(), mx::float32, primitive, std::move(inputs));
}

}  // namespace

void bind_norm(nanobind::module_& module) {
  namespace nb = nanobind;
  using namespace nb::literals;
  module.def(
      "rms_norm",
      [](const mx::array& x, const mx::array& weight, float eps, float offset) {
        return norm({false, eps, offset}, x, weight, {});
      },
      "x"_a, "weight"_a, "eps"_a, "offset"_a = 0.0f, "Rows over their root mean square, times weight + offset.");
  module.def(
      "layer_norm",
      [](const mx::array& x, const Optional& weight, const Optional& bias, float eps) {
        return norm({true, eps, 0.0f}, x, weight, bias);
      },
      "x"_a, "weight"_a.none(), "bias"_a.none(), "eps"_a, "Rows without their mean, over their deviation.");
}

}  // namespace bramley
