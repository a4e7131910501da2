// From MLX's quantised layout to panels, and single rows back out of them.
#include "panels.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <string>

#include "dense_product.hpp"
#include "lanes.hpp"
#include "layout.hpp"
#include "primitive.hpp"
#include "strided.hpp"
#include "threads.hpp"

namespace bramley {
namespace {

// The integer at a place of a row of integers of 2 to 8 bits, of which none is aligned to anything.
uint32_t unpack(const uint8_t* row, size_t index, int bits) {
  const size_t bit = index * bits, byte = bit / 8;
  const uint32_t low = row[byte];
  const uint32_t high = bit % 8 + bits > 8 ? row[byte + 1] : 0;
  return ((low | high << 8) >> bit % 8) & ((1u << bits) - 1);
}

// A power of two, as the 8 bits of its exponent: mxfp4's scale. Half of it, for the table holds twice the values.
float half_of_exponent(uint8_t exponent) { return std::ldexp(1.0f, static_cast<int>(exponent) - 128); }

BFloat to_bfloat(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return {static_cast<uint16_t>(bits >> 16)};  // the values given to it need no more bits
}

template <class T>
T read(const uint8_t* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

float read_scale(Scales scales, const uint8_t* at) {
  if (scales == Scales::float32) return read<float>(at);
  return scales == Scales::half ? to_float(read<Half>(at)) : to_float(read<BFloat>(at));
}

// One row of MLX's arrays.
struct SourceRow {
  const uint8_t* quantized;
  const uint8_t* scales;
  const uint8_t* biases;
};

class QuantizedPanels : public CpuPrimitive {
 public:
  QuantizedPanels(mx::Stream stream, PanelLayout layout, int bits)
      : CpuPrimitive(stream), layout_(layout), bits_(bits) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    allocate_to_stay(outputs[0]);
    const Strided<uint32_t> quantized(inputs[0]);
    // Scales are copied bit by bit, whatever their type.
    const auto *scales = dense_data<uint8_t>(inputs[1]), *biases = dense_data<uint8_t>(inputs.back());
    auto* out = outputs[0].data<uint8_t>();
    const int rows = inputs[0].shape(-2), stacked = static_cast<int>(inputs[0].size() / inputs[0].shape(-1)) / rows;
    const size_t row_bytes = static_cast<size_t>(layout_.columns) * bits_ / 8;
    dispatch([=, this, layout = layout_, bits = bits_] {
      std::vector<uint32_t> storage;
      const auto* words = reinterpret_cast<const uint8_t*>(quantized.dense(storage));
      const int panels = panels_of(rows);
      const size_t scale_bytes = layout.table ? 1 : layout.scale_bytes();
      parallel(stacked * panels, [&](int part) {
        uint8_t* panel = out + part * layout.panel_bytes();
        std::memset(panel, 0, layout.panel_bytes());
        const int first = part % panels * kLanes;
        for (int lane = 0; lane < std::min(kLanes, rows - first); ++lane) {
          const size_t row = static_cast<size_t>(part / panels) * rows + first + lane;
          const size_t scale = row * layout.groups() * scale_bytes;
          write_row(layout, bits, {words + row * row_bytes, scales + scale, biases + scale}, panel, lane);
        }
      });
    });
  }

  const char* name() const override { return "QuantizedPanels"; }

 private:
  static void write_row(const PanelLayout& layout, int bits, SourceRow row, uint8_t* panel, int lane) {
    const size_t bytes = layout.scale_bytes();
    const int per_word = 32 / layout.bits;
    for (int group = 0; group < layout.groups(); ++group, panel += layout.group_bytes()) {
      write_scales(layout, row, group, panel + lane * bytes, panel + (kLanes + lane) * bytes);
      for (int word = 0; word < layout.words_per_group(); ++word) {
        const size_t start = static_cast<size_t>(group) * layout.group_size + word * per_word;
        uint32_t all = 0;
        for (int i = 0; i < per_word; ++i) all |= unpack(row.quantized, start + i, bits) << (layout.bits * i);
        std::memcpy(panel + 2 * kLanes * bytes + 64 * word + 4 * lane, &all, sizeof all);
      }
    }
  }

  static void write_scales(const PanelLayout& layout, SourceRow row, int group, uint8_t* scale, uint8_t* bias) {
    const size_t bytes = layout.scale_bytes();
    if (layout.table) {
      const float value = half_of_exponent(row.scales[group]);
      const BFloat pair[] = {to_bfloat(value), to_bfloat(-kTableOffset * value)};
      std::memcpy(scale, &pair[0], bytes);
      std::memcpy(bias, &pair[1], bytes);
    } else {
      std::memcpy(scale, row.scales + group * bytes, bytes);
      std::memcpy(bias, row.biases + group * bytes, bytes);
    }
  }

  PanelLayout layout_;
  int bits_;
};

class DensePanels : public CpuPrimitive {
 public:
  DensePanels(mx::Stream stream, DenseLayout layout) : CpuPrimitive(stream), layout_(layout) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    allocate_to_stay(outputs[0]);
    if (layout_.value_bytes() == 4) {
      rearrange<uint32_t>(inputs[0], outputs[0]);
    } else {
      rearrange<uint16_t>(inputs[0], outputs[0]);
    }
  }

  const char* name() const override { return "DensePanels"; }

 private:
  template <class Bits>
  void rearrange(const mx::array& weight, mx::array& panels) {
    const Strided<Bits> values(weight);
    auto* out = panels.data<Bits>();
    const int rows = weight.shape(-2), columns = weight.shape(-1);
    const int stacked = static_cast<int>(weight.size() / columns) / rows;
    dispatch([=] {
      std::vector<Bits> storage;
      const Bits* value = values.dense(storage);
      parallel(stacked * panels_of(rows), [&](int part) {
        const int first = part % panels_of(rows) * kLanes;
        const size_t start = static_cast<size_t>(part / panels_of(rows)) * rows + first;
        Bits* panel = out + static_cast<size_t>(part) * columns * kLanes;
        for (int lane = 0; lane < kLanes; ++lane) {
          for (int column = 0; column < columns; ++column) {
            panel[column * kLanes + lane] = first + lane < rows ? value[(start + lane) * columns + column] : 0;
          }
        }
      });
    });
  }

  DenseLayout layout_;
};

// Rows by number, of panels whose layout knows how to read a row.
template <class Layout>
class TakeRows : public CpuPrimitive {
 public:
  TakeRows(mx::Stream stream, Layout layout, int rows) : CpuPrimitive(stream), layout_(layout), rows_(rows) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    allocate(outputs[0]);
    const auto* panels = dense_data<uint8_t>(inputs[0]);
    const Strided<int32_t> ids(inputs[1]);
    auto* out = outputs[0].data<float>();
    dispatch([=, layout = layout_, rows = rows_] {
      std::vector<int32_t> storage;
      const int32_t* id = ids.dense(storage);
      for (size_t i = 0; i < ids.size(); ++i) {
        const int row = std::clamp(id[i] < 0 ? id[i] + rows : id[i], 0, rows - 1);
        take(layout, panels + row / kLanes * layout.panel_bytes(), row % kLanes, out + i * layout.columns);
      }
    });
  }

  const char* name() const override { return "TakeRows"; }

 private:
  static void take(const PanelLayout& layout, const uint8_t* panel, int lane, float* out) {
    const size_t bytes = layout.scale_bytes();
    for (int group = 0; group < layout.groups(); ++group, panel += layout.group_bytes()) {
      const float scale = read_scale(layout.scales, panel + lane * bytes);
      const float bias = read_scale(layout.scales, panel + (kLanes + lane) * bytes);
      for (int word = 0; word < layout.words_per_group(); ++word) {
        uint32_t all;
        std::memcpy(&all, panel + 2 * kLanes * bytes + 64 * word + 4 * lane, sizeof all);
        for (int i = 0; i < 32 / layout.bits; ++i, all >>= layout.bits) {
          const uint32_t quantized = all & ((1u << layout.bits) - 1);
          *out++ = scale * static_cast<float>(layout.table ? kTable[quantized] : quantized) + bias;
        }
      }
    }
  }

  static void take(const DenseLayout& layout, const uint8_t* panel, int lane, float* out) {
    const size_t bytes = layout.value_bytes();
    for (int column = 0; column < layout.columns; ++column) {
      *out++ = read_scale(layout.type, panel + (static_cast<size_t>(column) * kLanes + lane) * bytes);
    }
  }

  Layout layout_;
  int rows_;
};

mx::Shape panel_shape(const mx::array& rows, size_t panel_bytes) {
  if (panel_bytes > INT32_MAX) throw std::invalid_argument("The rows are too long.");
  auto shape = rows.shape();
  shape[shape.size() - 2] = panels_of(rows.shape(-2));
  shape.back() = static_cast<int>(panel_bytes);
  return shape;
}

mx::array panels_of_quantized(const mx::array& quantized, const mx::array& scales,
                              const std::optional<mx::array>& biases, int group_size, int bits, const std::string& mode) {
  const int columns = static_cast<int>(static_cast<int64_t>(quantized.shape(-1)) * 32 / bits);
  const PanelLayout layout = make_layout(columns, group_size, bits, mode, scales.dtype());
  auto shape = scales.shape();
  shape.back() = layout.groups();
  if (quantized.dtype() != mx::uint32 || quantized.ndim() < 2 || scales.shape() != shape) {
    throw std::invalid_argument("Quantised weights and scales do not belong together.");
  }
  if (layout.table != !biases || (biases && (biases->shape() != shape || biases->dtype() != scales.dtype()))) {
    throw std::invalid_argument("Scales and biases do not belong together.");
  }
  const mx::Stream stream = cpu_stream();
  shape = panel_shape(quantized, layout.panel_bytes());
  std::vector<mx::array> inputs{quantized, mx::contiguous(scales, false, stream)};
  if (biases) inputs.push_back(mx::contiguous(*biases, false, stream));
  return mx::array(shape, mx::uint8, std::make_shared<QuantizedPanels>(stream, layout, bits), inputs);
}

mx::array panels_of_dense(const mx::array& weight) {
  if (weight.ndim() < 2) throw std::invalid_argument("A weight has rows and columns.");
  const DenseLayout layout{weight.shape(-1), scales_of(weight.dtype())};
  const mx::Stream stream = cpu_stream();
  return mx::array(panel_shape(weight, layout.panel_bytes()), mx::uint8, std::make_shared<DensePanels>(stream, layout),
                   {weight});
}

template <class Layout>
mx::array take_rows(const Layout& layout, const mx::array& panels, const mx::array& ids, int rows) {
  check_panels(panels, layout.panel_bytes(), rows);
  const mx::Stream stream = cpu_stream();
  auto shape = ids.shape();
  shape.push_back(layout.columns);
  return mx::array(shape, mx::float32, std::make_shared<TakeRows<Layout>>(stream, layout, rows),
                   {panels, mx::astype(ids, mx::int32, stream)});
}

mx::array take_quantized(const mx::array& panels, const mx::array& ids, int rows, int columns, int group_size, int bits,
                         const std::string& mode, mx::Dtype scales) {
  return take_rows(make_layout(columns, group_size, bits, mode, scales), panels, ids, rows);
}

mx::array take_dense(const mx::array& panels, const mx::array& ids, int rows, int columns, mx::Dtype dtype) {
  return take_rows(DenseLayout{columns, scales_of(dtype)}, panels, ids, rows);
}

}  // namespace

void bind_panels(nanobind::module_& module) {
  namespace nb = nanobind;
  using namespace nb::literals;
  module.def("panels_of_quantized", &panels_of_quantized, "quantized"_a, "scales"_a, "biases"_a.none(),
             "group_size"_a, "bits"_a, "mode"_a,
             "MLX's quantised arrays (..., rows, words) as panels (..., rows / 16, bytes).");
  module.def("panels_of_dense", &panels_of_dense, "weight"_a,
             "A weight (..., rows, columns) as panels (..., rows / 16, bytes).");
  module.def("take_quantized", &take_quantized, "panels"_a, "ids"_a, "rows"_a, "columns"_a, "group_size"_a, "bits"_a,
             "mode"_a, "scales"_a, "Rows of panels by number, as float32: (...) to (..., columns).");
  module.def("take_dense", &take_dense, "panels"_a, "ids"_a, "rows"_a, "columns"_a, "dtype"_a,
             "Rows of panels by number, as float32: (...) to (..., columns).");
}

}  // namespace bramley
