// Activation functions, alone or times another array: what stands between the projections of a feed-forward layer.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <optional>
#include <string>

#include "activation.hpp"
#include "primitive.hpp"
#include "strided.hpp"
#include "rows.hpp"
#include "threads.hpp"
#include "vector.hpp"

namespace bramley {
namespace {

struct Silu {
  static BRAMLEY_INLINE Vector of(Vector x) { return x / (exponential(-x) + 1.0f); }
};
struct Gelu {
  static BRAMLEY_INLINE Vector of(Vector x) { return x * normal_share(x); }
};
struct GeluTanh {
  // (1 + tanh y) / 2 is 1 / (1 + exp(-2y)), which keeps its relative accuracy where it is small.
  static BRAMLEY_INLINE Vector of(Vector x) {
    const Vector y = x * (x * x * 0.044715f + 1.0f) * (2 * 0.7978845608028654f);
    return x / (exponential(-y) + 1.0f);
  }
};
struct Relu {
  static BRAMLEY_INLINE Vector of(Vector x) { return larger(x, Vector{}); }
};
struct ReluSquared {
  static BRAMLEY_INLINE Vector of(Vector x) { return larger(x, Vector{}) * larger(x, Vector{}); }
};
struct Tanh {
  static BRAMLEY_INLINE Vector of(Vector x) { return hyperbolic_tangent(x); }
};

// up may be null
template <class Function>
void apply(const float* gate, const float* up, float* out, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i += kWidth) {
    const int present = static_cast<int>(std::min<int64_t>(kWidth, end - i));
    Vector y = Function::of(read_first(gate + i, present));
    if (up != nullptr) y *= read_first(up + i, present);
    write_first(out + i, y, present);
  }
}

using Apply = void (*)(const float*, const float*, float*, int64_t, int64_t);

Apply find_function(const std::string& name) {
  if (name == "silu" || name == "swish") return apply<Silu>;
  if (name == "gelu") return apply<Gelu>;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh") return apply<GeluTanh>;
  if (name == "relu") return apply<Relu>;
  if (name == "relu2") return apply<ReluSquared>;
  if (name == "tanh") return apply<Tanh>;
  throw std::invalid_argument("There is no kernel for this activation function.");
}

// Inputs: gate, up if there is one.
class Activation : public CpuPrimitive {
 public:
  Activation(mx::Stream stream, Apply function) : CpuPrimitive(stream), function_(function) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    allocate(outputs[0]);
    const Strided<float> gate(inputs[0]), up(inputs.back());
    float* const out = outputs[0].data<float>();
    const bool gated = inputs.size() == 2;
    const int64_t size = outputs[0].size();
    dispatch([=, function = function_] {
      std::vector<float> storage[2];
      const float* const gates = gate.dense(storage[0]);
      const float* const ups = gated ? up.dense(storage[1]) : nullptr;
      const int64_t vectors = (size + kWidth - 1) / kWidth;
      const int parts = static_cast<int>(size / kElementsPerPart + 1);
      parallel(parts, [&](int part) {
        const int64_t begin = vectors * part / parts * kWidth, end = vectors * (part + 1) / parts * kWidth;
        function(gates, ups, out, begin, std::min(size, end));
      });
    });
  }

  const char* name() const override { return "Activation"; }

 private:
  Apply function_;
};

mx::array activate(const std::string& function, const mx::array& gate, const std::optional<mx::array>& up) {
  if (gate.dtype() != mx::float32 || (up && (up->dtype() != mx::float32 || up->shape() != gate.shape()))) {
    throw std::invalid_argument("Both arrays must be float32 of one shape.");
  }
  std::vector<mx::array> inputs{gate};
  if (up) inputs.push_back(*up);
  return mx::array(gate.shape(), mx::float32, std::make_shared<Activation>(cpu_stream(), find_function(function)),
                   std::move(inputs));
}

}  // namespace

Activate find_activation(const std::string& name) { return find_function(name); }

void bind_activations(nanobind::module_& module) {
  namespace nb = nanobind;
  using namespace nb::literals;
  module.def("activate", &activate, "function"_a, "gate"_a, "up"_a = nb::none(),
             "function(gate), times up where there is one. function: silu, gelu, gelu_new, relu, relu2 or tanh.");
}

}  // namespace bramley
