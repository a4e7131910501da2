// Rotary positions for queries and keys in one operation.
#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>

#include <algorithm>

#include "heads.hpp"
#include "per_row.hpp"
#include "primitive.hpp"
#include "rotary.hpp"
#include "rows.hpp"
#include "threads.hpp"

namespace bramley {
namespace {

// Inputs: what is rotated, the periods, and the offsets where they differ.
class Rotate : public CpuPrimitive {
 public:
  Rotate(mx::Stream stream, Turn turn, PerRow offsets) : CpuPrimitive(stream), turn_(turn), offsets_(offsets) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    std::vector<Heads> read;
    std::vector<float*> written;
    for (size_t i = 0; i < outputs.size(); ++i) {
      allocate(outputs[i]);
      read.emplace_back(inputs[i], inputs[i].shape(3));
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
      std::vector<float> table(turn.table_size());
      for (int64_t at = vectors * part / parts; at < vectors * (part + 1) / parts; ++at) {
        const int row = static_cast<int>(at / length), position = static_cast<int>(at % length);
        fill_table(turn, periods, offsets[row] + position, table.data());
        for (size_t i = 0; i < read.size(); ++i) {
          rotate_all_heads(turn, read[i], row, position, table.data(), written[i]);
        }
      }
    });
  }

  static void rotate_all_heads(const Turn& turn, const Heads& heads, int row, int position, const float* table,
                               float* out) {
    const int width = heads.width();
    for (int head = 0; head < heads.heads(); ++head) {
      const float* x = heads.at(row, head, position);
      float* y = out + ((static_cast<int64_t>(row) * heads.heads() + head) * heads.length() + position) * width;
      rotate_vector(turn, table, x, width, y);
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
