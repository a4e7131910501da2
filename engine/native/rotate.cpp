// Rotary positions for queries and keys in one operation.
#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>

#include "heads.hpp"
#include "per_row.hpp"
#include "primitive.hpp"
#include "rows.hpp"
#include "threads.hpp"
#include "vector.hpp"

namespace bramley {
namespace {

// Cosines, then sines of one position's angles, times the magnitude. The angle is rounded to float32 as MLX does it;
// what is left after whole quarter turns is found in double precision, so that late positions lose nothing more.
void fill_table(const float* periods, int pairs, int position, float magnitude, float* table) {
  constexpr double kQuarterTurn = 1.57079632679489661923;
  for (int i = 0; i < pairs; ++i) {
    const float angle = static_cast<float>(position) * (1.0f / periods[i]);
    const double quarters = __builtin_rint(angle * (1 / kQuarterTurn));
    const float rest = static_cast<float>(angle - quarters * kQuarterTurn);
    const float square = rest * rest;
    const float cosine = ((2.443315711809948e-5f * square - 1.388731625493765e-3f) * square + 4.166664568298827e-2f) *
                             square * square - 0.5f * square + 1.0f;
    const float sine =
        ((-1.9515295891e-4f * square + 8.3321608736e-3f) * square - 1.6666654611e-1f) * square * rest + rest;
    const int64_t quadrant = static_cast<int64_t>(quarters);
    const bool swapped = (quadrant & 1) != 0;
    const float c = swapped ? sine : cosine, s = swapped ? cosine : sine;
    table[i] = ((quadrant + 1) & 2) != 0 ? -c * magnitude : c * magnitude;
    table[pairs + i] = (quadrant & 2) != 0 ? -s * magnitude : s * magnitude;
  }
}

// Pair i is (i, i + pairs).
void rotate_halves(const float* x, const float* table, int pairs, float* out) {
  for (int i = 0; i < pairs; i += kWidth) {
    const int present = std::min(kWidth, pairs - i);
    const Vector first = read_first(x + i, present), second = read_first(x + pairs + i, present);
    const Vector cosine = read_first(table + i, present), sine = read_first(table + pairs + i, present);
    write_first(out + i, first * cosine - second * sine, present);
    write_first(out + pairs + i, first * sine + second * cosine, present);
  }
}

// Pair i is (2 i, 2 i + 1).
void rotate_neighbours(const float* x, const float* table, int pairs, float* out) {
  for (int i = 0; i < pairs; ++i) {
    const float first = x[2 * i], second = x[2 * i + 1], cosine = table[i], sine = table[pairs + i];
    out[2 * i] = first * cosine - second * sine;
    out[2 * i + 1] = first * sine + second * cosine;
  }
}

struct Turn {
  int pairs;
  bool interleaved;
  float magnitude;
};

// Inputs: what is rotated, the periods, and the offsets where they differ.
class Rotate : public CpuPrimitive {
 public:
  Rotate(mx::Stream stream, Turn turn, PerRow offsets) : CpuPrimitive(stream), turn_(turn), offsets_(offsets) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    std::vector<Heads> read;
    std::vector<float*> written;
    for (size_t i = 0; i < outputs.size(); ++i) {
      allocate(outputs[i]);
      read.emplace_back(inputs[i]);
      written.push_back(outputs[i].data<float>());
    }
    const float* periods = inputs[outputs.size()].data<float>();
    PerRow offsets = offsets_;
    offsets.find(inputs);
    dispatch([turn = turn_, read = std::move(read), written = std::move(written), periods, offsets]() mutable {
      std::vector<std::vector<float>> storage(read.size());
      for (size_t i = 0; i < read.size(); ++i) read[i].bring_together(storage[i]);
      run(turn, read, written, periods, offsets);
    });
  }

  const char* name() const override { return "Rotate"; }

 private:
  static void run(const Turn& turn, const std::vector<Heads>& read, const std::vector<float*>& written,
                  const float* periods, const PerRow& offsets) {
    const int length = read[0].length();
    const int64_t vectors = static_cast<int64_t>(read[0].rows()) * length;
    int64_t width = 0;
    for (const auto& heads : read) width += static_cast<int64_t>(heads.heads()) * heads.width();
    const int parts = static_cast<int>(std::min(vectors, vectors * width / kElementsPerPart + 1));
    parallel(parts, [&](int part) {
      std::vector<float> table(2 * turn.pairs);
      for (int64_t at = vectors * part / parts; at < vectors * (part + 1) / parts; ++at) {
        const int row = static_cast<int>(at / length), position = static_cast<int>(at % length);
        fill_table(periods, turn.pairs, offsets[row] + position, turn.magnitude, table.data());
        for (size_t i = 0; i < read.size(); ++i) rotate_all_heads(turn, read[i], row, position, table.data(), written[i]);
      }
    });
  }

  static void rotate_all_heads(const Turn& turn, const Heads& heads, int row, int position, const float* table,
                               float* out) {
    const int width = heads.width(), dims = 2 * turn.pairs;
    for (int head = 0; head < heads.heads(); ++head) {
      const float* x = heads.at(row, head, position);
      float* y = out + ((static_cast<int64_t>(row) * heads.heads() + head) * heads.length() + position) * width;
      (turn.interleaved ? rotate_neighbours : rotate_halves)(x, table, turn.pairs, y);
      std::copy(x + dims, x + width, y + dims);
    }
  }

  Turn turn_;
  PerRow offsets_;
};

std::vector<mx::array> rotate(const std::vector<mx::array>& x, const Number& offsets, const mx::array& periods,
                              bool interleaved, float magnitude) {
  const mx::Stream stream = cpu_stream();
  if (x.empty() || periods.ndim() != 1 || periods.dtype() != mx::float32) {
    throw std::invalid_argument("There must be arrays to rotate and float32 periods.");
  }
  std::vector<mx::Shape> shapes;
  for (const auto& each : x) {
    const bool alike = each.ndim() == 4 && each.shape(0) == x[0].shape(0) && each.shape(2) == x[0].shape(2);
    if (!alike || each.dtype() != mx::float32 || each.shape(3) < 2 * periods.shape(0)) {
      throw std::invalid_argument("Rotated arrays must be float32 (rows, heads, length, head_dim).");
    }
    shapes.push_back(each.shape());
  }
  std::vector<mx::array> inputs = x;
  inputs.push_back(side_by_side(periods, stream));
  const PerRow each(offsets, x[0].shape(0), inputs, stream);
  auto primitive = std::make_shared<Rotate>(stream, Turn{periods.shape(0), interleaved, magnitude}, each);
  return mx::array::make_arrays(std::move(shapes), std::vector<mx::Dtype>(x.size(), mx::float32), primitive, inputs);
}

}  // namespace

void bind_rotate(nanobind::module_& module) {
  using namespace nanobind::literals;
  module.def("rotate", &rotate, "x"_a, "offsets"_a, "periods"_a, "interleaved"_a = false, "magnitude"_a = 1.0f,
             "Rotate pairs of the first 2 * len(periods) dimensions by position / period.\n\n"
             "x: arrays (rows, heads, length, head_dim); offsets: first position, one for all rows or (rows,).");
}

}  // namespace bramley
