// Matrix products with weights in panels as MLX operations.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <string>

#include "dense_product.hpp"
#include "layout.hpp"
#include "packed_product.hpp"
#include "primitive.hpp"
#include "strided.hpp"

namespace bramley {
namespace {

// Inputs: x, the panels of each target, the biases of those that have one. One output per target.
template <class Layout>
class Matmul : public CpuPrimitive {
 public:
  Matmul(mx::Stream stream, Layout layout, std::vector<bool> biased)
      : CpuPrimitive(stream), layout_(layout), biased_(std::move(biased)) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    const Strided<float> x(inputs[0]);
    const int rows = static_cast<int>(x.size() / layout_.columns);
    std::vector<Target> targets;
    size_t next_bias = 1 + outputs.size();
    for (size_t i = 0; i < outputs.size(); ++i) {
      allocate(outputs[i]);
      const float* bias = biased_[i] ? dense_data<float>(inputs[next_bias++]) : nullptr;
      const auto* panels = dense_data<uint8_t>(inputs[i + 1]);
      targets.push_back({panels, outputs[i].shape(-1), outputs[i].data<float>(), bias});
    }
    if (rows == 0) return;
    dispatch([x, rows, targets = std::move(targets), layout = layout_] {
      std::vector<float> storage;
      multiply(layout, x.dense(storage), rows, targets);
    });
  }

  const char* name() const override { return "Matmul"; }

 private:
  Layout layout_;
  std::vector<bool> biased_;
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

void check_bias(const mx::array& bias, int rows) {
  if (bias.shape() != mx::Shape{rows} || bias.dtype() != mx::float32 || !bias.flags().row_contiguous) {
    throw std::invalid_argument("A bias must be float32, one number per row.");
  }
}

template <class Layout>
std::vector<mx::array> product(const Layout& layout, const mx::array& x, const std::vector<mx::array>& panels,
                               const std::vector<int>& rows, const std::vector<std::optional<mx::array>>& biases) {
  if (panels.empty() || panels.size() != rows.size() || panels.size() != biases.size()) {
    throw std::invalid_argument("Every target needs panels, rows and a bias or None.");
  }
  const mx::Stream stream = cpu_stream();
  std::vector<mx::array> inputs{in_float32(x, layout.columns, stream)};
  std::vector<mx::Shape> shapes;
  std::vector<bool> biased;
  for (size_t i = 0; i < panels.size(); ++i) {
    check_panels(panels[i], layout.panel_bytes(), rows[i]);
    inputs.push_back(panels[i]);
    shapes.push_back(x.shape());
    shapes.back().back() = rows[i];
  }
  for (size_t i = 0; i < biases.size(); ++i) {
    biased.push_back(biases[i].has_value());
    if (!biases[i]) continue;
    check_bias(*biases[i], rows[i]);
    inputs.push_back(*biases[i]);
  }
  auto primitive = std::make_shared<Matmul<Layout>>(stream, layout, std::move(biased));
  return mx::array::make_arrays(std::move(shapes), std::vector<mx::Dtype>(panels.size(), mx::float32), primitive,
                                inputs);
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

std::vector<mx::array> multiply_packed(const mx::array& x, const std::vector<mx::array>& panels,
                                       const std::vector<int>& rows, const Biases& biases, int columns, int group_size,
                                       int bits, const std::string& mode, mx::Dtype scales) {
  return product(make_layout(columns, group_size, bits, mode, scales), x, panels, rows, biases);
}

std::vector<mx::array> multiply_dense(const mx::array& x, const std::vector<mx::array>& panels,
                                      const std::vector<int>& rows, const Biases& biases, int columns,
                                      mx::Dtype dtype) {
  return product(DenseLayout{columns, scales_of(dtype)}, x, panels, rows, biases);
}

mx::array multiply_packed_chosen(const mx::array& x, const mx::array& stack, const mx::array& chosen, int rows,
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
  module.def("multiply_packed", &multiply_packed, "x"_a, "panels"_a, "rows"_a, "biases"_a, "columns"_a, "group_size"_a,
             "bits"_a, "mode"_a, "scales"_a,
             "x @ weight.T + bias for each of several packed weights of one layout: (..., columns) to (..., rows).");
  module.def("multiply_packed_chosen", &multiply_packed_chosen, "x"_a, "stack"_a, "chosen"_a, "rows"_a, "columns"_a,
             "group_size"_a, "bits"_a, "mode"_a, "scales"_a,
             "x @ stack[chosen].T: x (..., 1 or n, 1, columns), chosen (..., n) to (..., n, 1, rows).");
  module.def("multiply_dense", &multiply_dense, "x"_a, "panels"_a, "rows"_a, "biases"_a, "columns"_a, "dtype"_a,
             "As multiply_packed, with dense weights.");
  module.def("multiply_dense_chosen", &multiply_dense_chosen, "x"_a, "stack"_a, "chosen"_a, "rows"_a, "columns"_a,
             "dtype"_a, "As multiply_packed_chosen, with dense weights.");
}

}  // namespace bramley
