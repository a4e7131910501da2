// See dense_product.hpp. Every sum runs over the columns in order, whatever is computed beside it.
#include "dense_product.hpp"

#include <algorithm>
#include <memory>

namespace bramley {
namespace {

constexpr int kUnit = 16;

struct DenseOperand;

// Rows of activations in units of 16 columns: values[(unit * rows + row) * 16 + i]; columns beyond the last are absent.
class OrderedRows {
 public:
  OrderedRows(const DenseOperand& operand, int rows);

  void read(int row, const float* x) {
    for (int unit = 0; unit < units_; ++unit) std::copy_n(x + unit * kUnit, present(unit), values_.get() + place(unit, row));
  }

  void clear(int row) {
    for (int unit = 0; unit < units_; ++unit) std::fill_n(values_.get() + place(unit, row), present(unit), 0.0f);
  }

  void copy_row(int row, const OrderedRows& from, int source) {
    for (int unit = 0; unit < units_; ++unit) {
      std::copy_n(from.values_.get() + from.place(unit, source), present(unit), values_.get() + place(unit, row));
    }
  }

  int number() const { return rows_; }
  static int bytes_per_column() { return sizeof(float); }
  const float* values(int row) const { return values_.get() + place(0, row); }

 private:
  int present(int unit) const { return std::min(kUnit, columns_ - unit * kUnit); }
  size_t place(int unit, int row) const { return (static_cast<size_t>(unit) * rows_ + row) * kUnit; }

  int columns_, units_, rows_;
  std::unique_ptr<float[]> values_;
};

template <int size, int panels, class Value>
BRAMLEY_INLINE void add_column(Floats (&totals)[size][panels], const Value* const (&weights)[panels], const float* x,
                               int column) {
  Floats values[panels];
#pragma GCC unroll 4
  for (int panel = 0; panel < panels; ++panel) values[panel] = load(weights[panel] + column * kLanes);
#pragma GCC unroll 12
  for (int row = 0; row < size; ++row) {
#pragma GCC unroll 4
    for (int panel = 0; panel < panels; ++panel) {
      totals[row][panel] = multiply_add(values[panel], broadcast(x[row * kUnit]), totals[row][panel]);
    }
  }
}

// `size` rows with some panels at once: sums that do not wait for each other.
template <int size, int panels, class Value>
void multiply_panels(const DenseLayout& layout, const Block<OrderedRows>& block, const Target& target, int first) {
  Floats totals[size][panels];
#pragma GCC unroll 12
  for (int row = 0; row < size; ++row) {
#pragma GCC unroll 4
    for (int panel = 0; panel < panels; ++panel) totals[row][panel] = zero_floats();
  }
  const Value* weights[panels];
  for (int panel = 0; panel < panels; ++panel) {
    weights[panel] = reinterpret_cast<const Value*>(target.panels + (first + panel) * layout.panel_bytes());
  }
  const float* x = block.x.values(block.first);
  const size_t stride = static_cast<size_t>(block.x.number()) * kUnit;
  int unit = 0;
  for (; unit + kUnit <= layout.columns; unit += kUnit, x += stride) {
    for (int panel = 0; panel < panels; ++panel) {
      const auto* ahead = reinterpret_cast<const uint8_t*>(weights[panel] + unit * kLanes) + kPrefetchBytes;
      for (size_t byte = 0; byte < kUnit * kLanes * sizeof(Value); byte += 64) __builtin_prefetch(ahead + byte);
    }
#pragma GCC unroll 4
    for (int i = 0; i < kUnit; ++i) add_column<size, panels>(totals, weights, x + i, unit + i);
  }
  for (int i = 0; unit + i < layout.columns; ++i) add_column<size, panels>(totals, weights, x + i, unit + i);
  float results[size][panels][kLanes];
#pragma GCC unroll 12
  for (int row = 0; row < size; ++row) {
#pragma GCC unroll 4
    for (int panel = 0; panel < panels; ++panel) store(results[row][panel], totals[row][panel]);
  }
  for (int row = 0; row < block.present; ++row) {
    for (int panel = 0; panel < panels; ++panel) {
      write_lanes(block, row, load(results[row][panel]), target, first + panel);
    }
  }
}

template <int size, class Value>
void multiply_all(const DenseLayout& layout, const Block<OrderedRows>& block, const Target& target, int begin, int end) {
  constexpr int together = size == 1 ? 4 : size == 2 ? 2 : 1;
  int panel = begin;
  for (; panel + together <= end; panel += together) {
    multiply_panels<size, together, Value>(layout, block, target, panel);
  }
  for (; panel < end; ++panel) multiply_panels<size, 1, Value>(layout, block, target, panel);
}

using Kernel = void (*)(const DenseLayout&, const Block<OrderedRows>&, const Target&, int, int);

template <class Value>
Kernel kernel_of_size(int size) {
  switch (size) {
    case 1: return multiply_all<1, Value>;
    case 2: return multiply_all<2, Value>;
    case 3: return multiply_all<3, Value>;
    case 4: return multiply_all<4, Value>;
    case 6: return multiply_all<std::min(6, kMaxBlock), Value>;
    case 8: return multiply_all<std::min(8, kMaxBlock), Value>;
    case 10: return multiply_all<std::min(10, kMaxBlock), Value>;
    default: return multiply_all<kMaxBlock, Value>;
  }
}

struct DenseOperand {
  using Rows = OrderedRows;

  const DenseLayout& layout;

  int columns() const { return layout.columns; }
  size_t panel_bytes() const { return layout.panel_bytes(); }

  void multiply(const Block<OrderedRows>& block, const Target& target, int begin, int end, int size) const {
    switch (layout.type) {
      case Scales::half: return kernel_of_size<Half>(size)(layout, block, target, begin, end);
      case Scales::bfloat: return kernel_of_size<BFloat>(size)(layout, block, target, begin, end);
      default: return kernel_of_size<float>(size)(layout, block, target, begin, end);
    }
  }
};

OrderedRows::OrderedRows(const DenseOperand& operand, int rows)
    : columns_(operand.columns()),
      units_((operand.columns() + kUnit - 1) / kUnit),
      rows_(rows),
      values_(new float[static_cast<size_t>(rows) * units_ * kUnit]) {}

}  // namespace

void multiply(const DenseLayout& layout, const float* x, int rows, const Surroundings& around,
              const std::vector<Target>& targets) {
  multiply_targets(DenseOperand{layout}, x, rows, around, targets);
}

void multiply_chosen(const DenseLayout& layout, const float* x, int sources, const uint8_t* stack, int stacked,
                           int rows, const uint32_t* chosen, int count, float* out) {
  multiply_chosen(DenseOperand{layout}, x, sources, stack, stacked, rows, chosen, count, out);
}

}  // namespace bramley
