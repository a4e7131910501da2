// Root-mean-square norm and layer norm, alone or of a sum. Rows are computed one by one: each sum has one order.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

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

// centred: layer norm, which subtracts the mean; offset: added to the weight; adds: the input is a sum of two
struct NormKind {
  bool centred;
  float eps;
  float offset;
  bool adds;
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

void add_row(const float* a, const float* b, float* out, int length) {
  for (int i = 0; i < length; i += kWidth) {
    const int present = std::min(kWidth, length - i);
    write_first(out + i, read_first(a + i, present) + read_first(b + i, present), present);
  }
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

// Inputs: x, the other addend, weight and bias as far as they are given. Outputs: the sum of two, the norm.
class Norm : public CpuPrimitive {
 public:
  Norm(mx::Stream stream, NormKind kind, bool weighted, bool biased)
      : CpuPrimitive(stream), kind_(kind), weighted_(weighted), biased_(biased) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    for (auto& output : outputs) allocate(output);
    std::vector<Rows> read{Rows(inputs[0])};
    if (kind_.adds) read.emplace_back(inputs[1]);
    const Factors factors{weighted_ ? inputs[read.size()].data<float>() : nullptr,
                          biased_ ? inputs.back().data<float>() : nullptr};
    float* const sums = outputs[0].data<float>();
    float* const out = outputs.back().data<float>();
    if (read[0].number() == 0) return;
    dispatch([kind = kind_, read = std::move(read), factors, sums, out]() mutable {
      run(kind, read, factors, sums, out);
    });
  }

  const char* name() const override { return "Norm"; }

 private:
  static void run(const NormKind& kind, std::vector<Rows>& read, const Factors& factors, float* sums, float* out) {
    std::vector<float> storage[2];
    for (size_t i = 0; i < read.size(); ++i) read[i].bring_together(storage[i]);
    const int64_t number = read[0].number();
    const int length = read[0].length();
    const int parts = static_cast<int>(std::min(number, number * length / kElementsPerPart + 1));
    parallel(parts, [&](int part) {
      for (int64_t row = number * part / parts; row < number * (part + 1) / parts; ++row) {
        const float* x = read[0][row];
        if (kind.adds) {
          add_row(x, read[1][row], sums + row * length, length);
          x = sums + row * length;
        }
        norm_row(kind, factors, x, out + row * length, length);
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

std::vector<mx::array> norm(const NormKind& kind, const mx::array& x, const Optional& other, const Optional& weight,
                            const Optional& bias) {
  if (x.ndim() < 1 || x.dtype() != mx::float32) throw std::invalid_argument("x must be float32 with an axis.");
  if (other && (other->dtype() != mx::float32 || other->shape() != x.shape())) {
    throw std::invalid_argument("Both addends must be float32 of one shape.");
  }
  check_factor(weight, x);
  check_factor(bias, x);
  const mx::Stream stream = cpu_stream();
  std::vector<mx::array> inputs{x};
  if (other) inputs.push_back(*other);
  if (weight) inputs.push_back(side_by_side(*weight, stream));
  if (bias) inputs.push_back(side_by_side(*bias, stream));
  const size_t number = other ? 2 : 1;
  auto primitive = std::make_shared<Norm>(stream, kind, weight.has_value(), bias.has_value());
  return mx::array::make_arrays(std::vector<mx::Shape>(number, x.shape()),
                                std::vector<mx::Dtype>(number, mx::float32), primitive, inputs);
}

}  // namespace

void bind_norm(nanobind::module_& module) {
  namespace nb = nanobind;
  using namespace nb::literals;
  module.def(
      "rms_norm",
      [](const mx::array& x, const mx::array& weight, float eps, float offset) {
        return norm({false, eps, offset, false}, x, {}, weight, {})[0];
      },
      "x"_a, "weight"_a, "eps"_a, "offset"_a = 0.0f, "Rows over their root mean square, times weight + offset.");
  module.def(
      "layer_norm",
      [](const mx::array& x, const Optional& weight, const Optional& bias, float eps) {
        return norm({true, eps, 0.0f, false}, x, {}, weight, bias)[0];
      },
      "x"_a, "weight"_a.none(), "bias"_a.none(), "eps"_a, "Rows without their mean, over their deviation.");
  module.def(
      "add_rms_norm",
      [](const mx::array& x, const mx::array& other, const mx::array& weight, float eps, float offset) {
        return norm({false, eps, offset, true}, x, other, weight, {});
      },
      "x"_a, "other"_a, "weight"_a, "eps"_a, "offset"_a = 0.0f, "x + other, and its rms_norm.");
  module.def(
      "add_layer_norm",
      [](const mx::array& x, const mx::array& other, const Optional& weight, const Optional& bias, float eps) {
        return norm({true, eps, 0.0f, true}, x, other, weight, bias);
      },
      "x"_a, "other"_a, "weight"_a.none(), "bias"_a.none(), "eps"_a, "x + other, and its layer_norm.");
}

}  // namespace bramley
