// Matrix products with weights in panels as MLX operations.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <optional>
#include <string>

#include "activation.hpp"
#include "dense_product.hpp"
#include "layout.hpp"
#include "quantized_product.hpp"
#include "primitive.hpp"
#include "strided.hpp"

namespace bramley {
namespace {

// The inputs of a call besides x and the panels. Biases: one or none per target.
struct Extras {
  std::vector<std::optional<mx::array>> biases;
  std::optional<mx::array> norm;
  float eps;
  std::optional<mx::array> residual;
  Activate activate;
};

// Inputs: x, the panels of each target, the biases of those that have one, the norm's factors, the residual.
// One output per target, or one of two targets that are joined by an activation function.
template <class Layout>
class Matmul : public CpuPrimitive {
 public:
  Matmul(mx::Stream stream, Layout layout, std::vector<int> rows, const Extras& extras)
      : CpuPrimitive(stream),
        layout_(layout),
        rows_(std::move(rows)),
        normed_(extras.norm.has_value()),
        residual_(extras.residual.has_value()),
        eps_(extras.eps),
        activate_(extras.activate) {
    for (const auto& bias : extras.biases) biased_.push_back(bias.has_value());
  }

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    const Strided<float> x(inputs[0]);
    const int rows = static_cast<int>(x.size() / layout_.columns);
    for (auto& out : outputs) allocate(out);
    size_t next = 1 + rows_.size();
    auto targets = find_targets(inputs, outputs, next);
    const Surroundings around{normed_ ? dense_data<float>(inputs[next++]) : nullptr, eps_, activate_};
    std::optional<Strided<float>> residual;
    if (residual_) residual.emplace(inputs[next]);
    if (rows == 0) return;
    dispatch([=, targets = std::move(targets), layout = layout_]() mutable {
      std::vector<float> storage, residual_storage;
      std::unique_ptr<float[]> joined;
      if (residual) targets[0].residual = residual->dense(residual_storage);
      if (around.activate != nullptr) {
        joined.reset(new float[static_cast<size_t>(rows) * targets[1].rows]);
        targets[1].out = joined.get();
      }
      multiply(layout, x.dense(storage), rows, around, targets);
    });
  }

  const char* name() const override { return "Matmul"; }

 private:
  std::vector<Target> find_targets(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs,
                                   size_t& next) const {
    std::vector<Target> targets;
    for (size_t i = 0; i < rows_.size(); ++i) {
      float* out = i < outputs.size() ? outputs[i].data<float>() : nullptr;
      const float* bias = biased_[i] ? dense_data<float>(inputs[next++]) : nullptr;
      targets.push_back({dense_data<uint8_t>(inputs[i + 1]), rows_[i], out, bias});
    }
    return targets;
  }

  Layout layout_;
  std::vector<int> rows_;
  std::vector<bool> biased_;
  bool normed_, residual_;
  float eps_;
  Activate activate_;
};

// Inputs: x, a stack of panels, the chosen ones.
template <class Layout>
class ChosenMatmul : public CpuPrimitive {
 public:
  ChosenMatmul(mx::Stream stream, Layout layout) : CpuPrimitive(stream), layout_(layout) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    allocate(outputs[0]);
    const Strided<float> x(inputs[0]);
    const Strided<uint32_t> chosen(inputs[2]);
    const auto* stack = dense_data<uint8_t>(inputs[1]);
    const int stacked = inputs[1].shape(0), rows = outputs[0].shape(-1);
    auto* out = outputs[0].data<float>();
    if (chosen.size() == 0) return;
    dispatch([=, layout = layout_] {
      std::vector<float> dense_x;
      std::vector<uint32_t> dense_chosen;
      const int sources = static_cast<int>(x.size() / layout.columns);
      multiply_chosen(layout, x.dense(dense_x), sources, stack, stacked, rows, chosen.dense(dense_chosen),
                      static_cast<int>(chosen.size()), out);
    });
  }

  const char* name() const override { return "ChosenMatmul"; }

 private:
  Layout layout_;
};

mx::array in_float32(const mx::array& x, int columns, mx::Stream stream) {
  if (x.ndim() < 1 || x.shape(-1) != columns) throw std::invalid_argument("x has another number of columns.");
  return x.dtype() == mx::float32 ? x : mx::astype(x, mx::float32, stream);
}

void check_numbers(const mx::array& numbers, const mx::Shape& shape) {
  if (numbers.shape() != shape || numbers.dtype() != mx::float32) {
    throw std::invalid_argument("Biases, norms and residuals must be float32 of fitting shapes.");
  }
}

template <class Layout>
std::vector<mx::array> product(const Layout& layout, const mx::array& x, const std::vector<mx::array>& panels,
                               const std::vector<int>& rows, const Extras& extras) {
  const bool joined = extras.activate != nullptr;
  if (panels.empty() || panels.size() != rows.size() || panels.size() != extras.biases.size() ||
      (joined && (panels.size() != 2 || rows[0] != rows[1] || extras.residual)) ||
      (extras.residual && panels.size() != 1)) {
    throw std::invalid_argument("These weights cannot be multiplied in one call.");
  }
  const mx::Stream stream = cpu_stream();
  std::vector<mx::array> inputs{in_float32(x, layout.columns, stream)};
  std::vector<mx::Shape> shapes;
  for (size_t i = 0; i < panels.size(); ++i) {
    check_panels(panels[i], layout.panel_bytes(), rows[i]);
    inputs.push_back(panels[i]);
    shapes.push_back(x.shape());
    shapes.back().back() = rows[i];
  }
  const auto add_input = [&](const std::optional<mx::array>& numbers, const mx::Shape& shape) {
    if (!numbers) return;
    check_numbers(*numbers, shape);
    inputs.push_back(*numbers);
  };
  for (size_t i = 0; i < panels.size(); ++i) add_input(extras.biases[i], {rows[i]});
  add_input(extras.norm, {layout.columns});
  add_input(extras.residual, shapes[0]);
  if (joined) shapes.resize(1);
  auto primitive = std::make_shared<Matmul<Layout>>(stream, layout, rows, extras);
  const std::vector<mx::Dtype> dtypes(shapes.size(), mx::float32);
  return mx::array::make_arrays(std::move(shapes), dtypes, primitive, inputs);
}

template <class Layout>
mx::array chosen_product(const Layout& layout, const mx::array& x, const mx::array& stack, const mx::array& chosen,
                         int rows) {
  const mx::Stream stream = cpu_stream();
  check_panels(stack, layout.panel_bytes(), rows);
  const int64_t sources = static_cast<int64_t>(x.size()) / layout.columns, count = chosen.size();
  if (stack.ndim() != 3 || chosen.ndim() < 1 || (sources != count && sources * chosen.shape(-1) != count)) {
    throw std::invalid_argument("x needs one row per choice, or one per row of choices.");
  }
  auto shape = chosen.shape();
  shape.push_back(1);
  shape.push_back(rows);
  return mx::array(shape, mx::float32, std::make_shared<ChosenMatmul<Layout>>(stream, layout),
                   {in_float32(x, layout.columns, stream), stack, mx::astype(chosen, mx::uint32, stream)});
}

using Biases = std::vector<std::optional<mx::array>>;
using Optional = std::optional<mx::array>;
using Name = std::optional<std::string>;

Extras extras(const Biases& biases, const Optional& norm, float eps, const Optional& residual, const Name& activation) {
  return {biases, norm, eps, residual, activation ? find_activation(*activation) : nullptr};
}

std::vector<mx::array> multiply_quantized(const mx::array& x, const std::vector<mx::array>& panels,
                                          const std::vector<int>& rows, const Biases& biases, int columns,
                                          int group_size, int bits, const std::string& mode, mx::Dtype scales,
                                          const Optional& norm, float eps, const Optional& residual,
                                          const Name& activation) {
  const PanelLayout layout = make_layout(columns, group_size, bits, mode, scales);
  return product(layout, x, panels, rows, extras(biases, norm, eps, residual, activation));
}

std::vector<mx::array> multiply_dense(const mx::array& x, const std::vector<mx::array>& panels,
                                      const std::vector<int>& rows, const Biases& biases, int columns, mx::Dtype dtype,
                                      const Optional& norm, float eps, const Optional& residual,
                                      const Name& activation) {
  const DenseLayout layout{columns, scales_of(dtype)};
  return product(layout, x, panels, rows, extras(biases, norm, eps, residual, activation));
}

mx::array multiply_quantized_chosen(const mx::array& x, const mx::array& stack, const mx::array& chosen, int rows,
                                    int columns, int group_size, int bits, const std::string& mode, mx::Dtype scales) {
  return chosen_product(make_layout(columns, group_size, bits, mode, scales), x, stack, chosen, rows);
}

mx::array multiply_dense_chosen(const mx::array& x, const mx::array& stack, const mx::array& chosen, int rows,
                                int columns, mx::Dtype dtype) {
  return chosen_product(DenseLayout{columns, scales_of(dtype)}, x, stack, chosen, rows);
}

}  // namespace

void bind_matmul(nanobind::module_& module) {
  namespace nb = nanobind;
  using namespace nb::literals;
  module.def("multiply_quantized", &multiply_quantized, "x"_a, "panels"_a, "rows"_a, "biases"_a, "columns"_a,
             "group_size"_a, "bits"_a, "mode"_a, "scales"_a, "norm"_a = nb::none(), "eps"_a = 0.0f,
             "residual"_a = nb::none(), "activation"_a = nb::none(),
             "x @ weight.T + bias for each of several quantised weights of one layout: (..., columns) to (..., rows).\n\n"
             "norm, eps: x goes through a root-mean-square norm first. residual: is added to the one result.\n"
             "activation: of two weights, the result is activation(first) * second.");
  module.def("multiply_quantized_chosen", &multiply_quantized_chosen, "x"_a, "stack"_a, "chosen"_a, "rows"_a, "columns"_a,
             "group_size"_a, "bits"_a, "mode"_a, "scales"_a,
             "x @ stack[chosen].T: x (..., 1 or n, 1, columns), chosen (..., n) to (..., n, 1, rows).");
  module.def("multiply_dense", &multiply_dense, "x"_a, "panels"_a, "rows"_a, "biases"_a, "columns"_a, "dtype"_a,
             "norm"_a = nb::none(), "eps"_a = 0.0f, "residual"_a = nb::none(), "activation"_a = nb::none(),
             "As multiply_quantized, with dense weights.");
  module.def("multiply_dense_chosen", &multiply_dense_chosen, "x"_a, "stack"_a, "chosen"_a, "rows"_a, "columns"_a,
             "dtype"_a, "As multiply_quantized_chosen, with dense weights.");
}

}  // namespace bramley
