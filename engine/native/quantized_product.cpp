// See quantized_product.hpp. The weights of a word are taken apart once for all rows of a block; scale and bias of a
// group are taken out of its sum: scale * sum(x * level) + bias * sum(x), where the sums are of integers and thus exact.
#include "quantized_product.hpp"

#include <cstring>

#include "rounded.hpp"

namespace bramley {
namespace {

BRAMLEY_INLINE int32_t load_pair(const int16_t* pair) {
  int32_t both;
  std::memcpy(&both, pair, sizeof both);
  return both;
}

template <int bits, bool table, int shift>
BRAMLEY_INLINE Words take_pair(Words word) {
  const Words pair = masked(shifted<shift * bits>(word), bits == 4 ? 0x000f000f : 0x00ff00ff);
  return table ? look_up(pair, kTable) : pair;
}

template <int bits, bool table, int size, int shift, int chains>
BRAMLEY_INLINE void add_pairs(Words (&sums)[size][chains], Words word, const int16_t* pairs) {
  if constexpr (shift < 16 / bits) {
    const Words pair = take_pair<bits, table, shift>(word);
#pragma GCC unroll 12
    for (int row = 0; row < size; ++row) {
      Words& sum = sums[row][shift % chains];
      sum = add_products(sum, pair, load_pair(pairs + row * kUnit + 2 * shift));
    }
    add_pairs<bits, table, size, shift + 1, chains>(sums, word, pairs);
  }
}

// One panel, `size` rows: everything stays in registers.
template <int bits, bool table, class Scale, int size>
void multiply_panel(const PanelLayout& layout, const Block<RoundedRows>& block, const Target& target, int panel) {
  const int units = layout.group_size / kUnit;
  const size_t unit_stride = static_cast<size_t>(block.x.number()) * kUnit;
  constexpr int chains = size < 2 ? 4 : size < 6 ? 2 : 1;  // sums that do not wait for each other
  Floats totals[size];
#pragma GCC unroll 12
  for (int row = 0; row < size; ++row) totals[row] = zero_floats();
  const uint8_t* group = target.panels + panel * layout.panel_bytes();
  const int16_t* values = block.x.values() + static_cast<size_t>(block.first) * kUnit;
  const float* factors = block.x.factors() + 2 * static_cast<size_t>(block.first);
  for (int left = layout.groups(); left > 0; --left) {
    const auto* scales = reinterpret_cast<const Scale*>(group);
    const uint8_t* quantized = group + 2 * kLanes * sizeof(Scale);
    Words sums[size][chains];
#pragma GCC unroll 12
    for (int row = 0; row < size; ++row) {
      for (int chain = 0; chain < chains; ++chain) sums[row][chain] = zero_words();
    }
    for (int unit = 0; unit < units; ++unit) {
#pragma GCC unroll 2
      for (int word = 0; word < kUnit * bits / 32; ++word) {
        __builtin_prefetch(quantized + 64 * word + kPrefetchBytes);
        add_pairs<bits, table, size, 0, chains>(sums, load_words(quantized + 64 * word), values + word * (32 / bits));
      }
      quantized += 2 * kUnit * bits;
      values += unit_stride;
    }
    const Floats scale = load(scales), offset = load(scales + kLanes);
#pragma GCC unroll 12
    for (int row = 0; row < size; ++row) {
      Words sum = sums[row][0];
      for (int chain = 1; chain < chains; ++chain) sum = add_words(sum, sums[row][chain]);
      totals[row] = multiply_add(to_floats(sum), multiply(scale, broadcast(factors[2 * row])), totals[row]);
      totals[row] = multiply_add(offset, broadcast(factors[2 * row + 1]), totals[row]);
    }
    group = quantized;
    factors += static_cast<size_t>(block.x.number()) * 2;
  }
  float results[size][kLanes];
#pragma GCC unroll 12
  for (int row = 0; row < size; ++row) store(results[row], totals[row]);
  for (int row = 0; row < block.present; ++row) write_lanes(block, row, load(results[row]), target, panel);
}

#if defined(BRAMLEY_BYTE_PRODUCTS)
// The same for a single row of activations and weights of 4 bits, with half as many steps: each half of an activation
// is multiplied apart. The sums of integers, and with them the results, are the same to the bit.
template <class Scale>
void multiply_single_row(const PanelLayout& layout, const Block<RoundedRows>& block, const Target& target, int panel) {
  const int words = layout.words_per_group();
  Floats total = zero_floats();
  const uint8_t* group = target.panels + panel * layout.panel_bytes();
  const uint8_t* split = block.x.split();
  const float* factors = block.x.factors();
  for (int left = layout.groups(); left > 0; --left, factors += 2) {
    const auto* scales = reinterpret_cast<const Scale*>(group);
    const uint8_t* quantized = group + 2 * kLanes * sizeof(Scale);
    Words upper[2] = {zero_words(), zero_words()}, lower[2] = {zero_words(), zero_words()};
#pragma GCC unroll 4
    for (int word = 0; word < words; ++word, quantized += 64, split += 16) {
      __builtin_prefetch(quantized + kPrefetchBytes);
      int32_t x[4];
      std::memcpy(x, split, sizeof x);
      const Words all = load_words(quantized);
      const Words even = masked(all, 0x0f0f0f0f), odd = masked(shifted<4>(all), 0x0f0f0f0f);
      upper[0] = add_byte_products(upper[0], even, broadcast_word(x[0]));
      upper[1] = add_byte_products(upper[1], odd, broadcast_word(x[1]));
      lower[0] = add_byte_products(lower[0], broadcast_word(x[2]), even);
      lower[1] = add_byte_products(lower[1], broadcast_word(x[3]), odd);
    }
    const Words sum = add_words(shifted_up<8>(add_words(upper[0], upper[1])), add_words(lower[0], lower[1]));
    total = multiply_add(to_floats(sum), multiply(load(scales), broadcast(factors[0])), total);
    total = multiply_add(load(scales + kLanes), broadcast(factors[1]), total);
    group = quantized;
  }
  write_lanes(block, 0, total, target, panel);
}
#endif

using Kernel = void (*)(const PanelLayout&, const Block<RoundedRows>&, const Target&, int);

template <int bits, bool table, class Scale>
Kernel kernel_of_size(int size) {
  switch (size) {
    case 1: return multiply_panel<bits, table, Scale, 1>;
    case 2: return multiply_panel<bits, table, Scale, 2>;
    case 3: return multiply_panel<bits, table, Scale, 3>;
    case 4: return multiply_panel<bits, table, Scale, 4>;
    case 6: return multiply_panel<bits, table, Scale, std::min(6, kMaxBlock)>;
    case 8: return multiply_panel<bits, table, Scale, std::min(8, kMaxBlock)>;
    case 10: return multiply_panel<bits, table, Scale, std::min(10, kMaxBlock)>;
    default: return multiply_panel<bits, table, Scale, kMaxBlock>;
  }
}

template <class Scale>
Kernel kernel_of_bits(int bits, int size) {
  return bits == 4 ? kernel_of_size<4, false, Scale>(size) : kernel_of_size<8, false, Scale>(size);
}

Kernel find_kernel(const PanelLayout& layout, int size) {
  if (layout.table) return kernel_of_size<4, true, BFloat>(size);
  switch (layout.scales) {
    case Scales::half: return kernel_of_bits<Half>(layout.bits, size);
    case Scales::bfloat: return kernel_of_bits<BFloat>(layout.bits, size);
    default: return kernel_of_bits<float>(layout.bits, size);
  }
}

Kernel find_single_row_kernel(const PanelLayout& layout) {
#if defined(BRAMLEY_BYTE_PRODUCTS)
  switch (layout.scales) {
    case Scales::half: return multiply_single_row<Half>;
    case Scales::bfloat: return multiply_single_row<BFloat>;
    default: return multiply_single_row<float>;
  }
#else
  return find_kernel(layout, 1);
#endif
}

struct QuantizedOperand {
  using Rows = RoundedRows;

  const PanelLayout& layout;

  operator const PanelLayout&() const { return layout; }
  int columns() const { return layout.columns; }
  size_t panel_bytes() const { return layout.panel_bytes(); }

  void multiply(const Block<RoundedRows>& block, const Target& target, int begin, int end, int size) const {
    const Kernel kernel = block.x.split() != nullptr ? find_single_row_kernel(layout) : find_kernel(layout, size);
    for (int panel = begin; panel < end; ++panel) kernel(layout, block, target, panel);
  }
};

}  // namespace

void multiply(const PanelLayout& layout, const float* x, int rows, const Surroundings& around,
              const std::vector<Target>& targets) {
  multiply_targets(QuantizedOperand{layout}, x, rows, around, targets);
}

void multiply_chosen(const PanelLayout& layout, const float* x, int sources, const uint8_t* stack, int stacked,
                     int rows, const uint32_t* chosen, int count, float* out) {
  multiply_chosen(QuantizedOperand{layout}, x, sources, stack, stacked, rows, chosen, count, out);
}

}  // namespace bramley
