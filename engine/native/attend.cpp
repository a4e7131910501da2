// Attention as an MLX operation: new keys and values are written into the cache's own arrays, then the queries attend.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <mlx/backend/common/utils.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <tuple>

#include "attention.hpp"
#include "rows.hpp"
#include "strided.hpp"
#include "threads.hpp"

namespace bramley {
namespace {

constexpr int64_t kBytesPerPart = 1 << 17;

// Copies the elements of an array, in order, to where they lie side by side.
class Copied {
 public:
  Copied(const mx::array& from, mx::array& to)
      : words_(from), halves_(from), bytes_(from), item_bytes_(from.itemsize()), to_(to.data<uint8_t>()) {}

  void run() const {
    if (item_bytes_ == 4) copy(words_);
    else if (item_bytes_ == 2) copy(halves_);
    else copy(bytes_);
  }

 private:
  template <class T>
  void copy(const Strided<T>& from) const {
    std::vector<T> storage;
    const auto* data = reinterpret_cast<const uint8_t*>(from.dense(storage));
    const size_t bytes = from.size() * sizeof(T);
    const int parts = static_cast<int>(bytes / kBytesPerPart + 1);
    parallel(parts, [&](int part) {
      const size_t begin = bytes * part / parts, end = bytes * (part + 1) / parts;
      std::memcpy(to_ + begin, data + begin, end - begin);
    });
  }

  Strided<uint32_t> words_;
  Strided<uint16_t> halves_;
  Strided<uint8_t> bytes_;
  size_t item_bytes_;
  uint8_t* to_;
};

// New tokens (rows, heads, length, width) and the plane (slots, heads, places, width) that takes them.
struct Written {
  Plane from;
  int64_t element_stride;  // of `from`, in bytes
  uint8_t* to;
  int rows, heads, length, width, slots, places;
  size_t item_bytes;

  Written(const mx::array& tokens, mx::array& plane)
      : from(tokens, plane.shape(3)),
        element_stride(tokens.strides(-1) * static_cast<int64_t>(tokens.itemsize())),
        to(plane.data<uint8_t>()),
        rows(tokens.shape(0)),
        heads(plane.shape(1)),
        length(tokens.shape(tokens.ndim() == 3 ? 1 : 2)),
        width(plane.shape(3)),
        slots(plane.shape(0)),
        places(plane.shape(2)),
        item_bytes(tokens.itemsize()) {}

  // A token whose slot or place does not exist is dropped. tables: of the rotation, or null; see Attention.
  void run(const PerRow& slot_of, const PerRow& place_of, const Turn& turn, const float* tables) const {
    const int64_t vectors = static_cast<int64_t>(rows) * heads;
    const int parts = static_cast<int>(
        std::min(vectors, vectors * length * width * static_cast<int64_t>(item_bytes) / kBytesPerPart + 1));
    parallel(parts, [&](int part) {
      for (int64_t at = vectors * part / parts; at < vectors * (part + 1) / parts; ++at) {
        const int row = static_cast<int>(at / heads), head = static_cast<int>(at % heads);
        const int slot = slot_of[row], place = place_of[row];
        if (slot < 0 || slot >= slots || place < 0) continue;
        for (int i = 0; i < std::min(length, places - place); ++i) {
          const uint8_t* token = from.at(row, head, i);
          uint8_t* out = to + ((static_cast<int64_t>(slot) * heads + head) * places + place + i) * width * item_bytes;
          if (tables == nullptr) copy(token, out);
          else rotate(token, turn, tables + (static_cast<int64_t>(row) * length + i) * turn.table_size(), out);
        }
      }
    });
  }

 private:
  void copy(const uint8_t* token, uint8_t* out) const {
    if (element_stride == static_cast<int64_t>(item_bytes) || width == 1) {
      std::memcpy(out, token, width * item_bytes);
      return;
    }
    for (int i = 0; i < width; ++i) std::memcpy(out + i * item_bytes, token + i * element_stride, item_bytes);
  }

  void rotate(const uint8_t* token, const Turn& turn, const float* table, uint8_t* out) const {
    std::vector<float> apart;
    const float* x = reinterpret_cast<const float*>(token);
    if (element_stride != static_cast<int64_t>(item_bytes)) {
      apart.resize(width);
      copy(token, reinterpret_cast<uint8_t*>(apart.data()));
      x = apart.data();
    }
    rotate_vector(turn, table, x, width, reinterpret_cast<float*>(out));
  }
};

struct Options {
  float scale, softcap;
  bool causal;
  int window;
  bool has_sinks, has_mask, rotates;
  Turn turn;
};

// What differs from row to row.
struct Placing {
  PerRow slots, places, lengths, offsets;

  void find(const std::vector<mx::array>& inputs) {
    for (PerRow* each : {&slots, &places, &lengths, &offsets}) each->find(inputs);
  }
};

// Inputs: queries, the planes, new tokens for each of them or none, then as far as they are given sinks, mask, periods,
// and what differs from row to row. Outputs: the attended, and the planes where there are new tokens.
class Attend : public CpuPrimitive {
 public:
  Attend(mx::Stream stream, Options options, int planes, bool writes, Placing placing)
      : CpuPrimitive(stream), options_(options), planes_(planes), writes_(writes), placing_(placing) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    allocate_by_position(outputs[0]);
    if (writes_) let_go(inputs, outputs);
    std::vector<Written> written;
    std::vector<mx::array> planes;
    for (int i = 0; i < planes_; ++i) {
      planes.push_back(writes_ ? keep(inputs[1 + i], outputs[1 + i]) : with_dense_rows(inputs[1 + i]));
      if (writes_) written.emplace_back(inputs[1 + planes_ + i], outputs[1 + i]);
    }
    Placing placing = placing_;
    placing.find(inputs);
    size_t next = 1 + planes_ * (writes_ ? 2 : 1);
    Attention attention = describe(inputs, next, planes, placing, outputs[0].data<float>());
    const float* periods = options_.rotates ? inputs[next].data<float>() : nullptr;
    dispatch([written = std::move(written), attention, placing, periods]() mutable {
      std::vector<float> storage, tables;
      attention.queries.bring_together(storage);
      if (periods != nullptr) attention.tables = fill_tables(attention, placing, periods, tables);
      for (size_t i = 0; i < written.size(); ++i) {
        // Values are not rotated.
        written[i].run(placing.slots, placing.places, attention.turn, i == 0 ? attention.tables : nullptr);
      }
      attend(attention);
    });
  }

  const char* name() const override { return "Attend"; }

 private:
  // The heads of a position lie side by side, as the next projection reads them, whatever the shape.
  static void allocate_by_position(mx::array& out) {
    if (out.ndim() == 3) return allocate(out);
    const int64_t heads = out.shape(1), length = out.shape(2), width = out.shape(3);
    const mx::Strides strides{length * heads * width, width, heads * width, 1};
    const auto [size, by_row, by_column] = mx::check_contiguity(out.shape(), strides);
    out.set_data(mx::allocator::malloc(out.nbytes()), size, strides, {true, by_row, by_column});
  }

  static const float* fill_tables(const Attention& attention, const Placing& placing, const float* periods,
                                  std::vector<float>& tables) {
    const int length = attention.queries.length(), size = attention.turn.table_size();
    const int64_t vectors = static_cast<int64_t>(attention.queries.rows()) * length;
    tables.resize(vectors * size);
    const int parts = static_cast<int>(std::min(vectors, vectors * size / kElementsPerPart + 1));
    parallel(parts, [&](int part) {
      for (int64_t at = vectors * part / parts; at < vectors * (part + 1) / parts; ++at) {
        const int position = placing.offsets[static_cast<int>(at / length)] + static_cast<int>(at % length);
        fill_table(attention.turn, periods, position, tables.data() + at * size);
      }
    });
    return tables.data();
  }

  // Each output refers to the inputs. One of them is enough, and an input can only be given on when it is the last.
  static void let_go(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
    for (auto& output : outputs) {
      if (&output.inputs() != &inputs && !output.is_tracer()) output.inputs().clear();
    }
  }

  // Gives an output the memory of an input that nobody else uses, or a copy of it.
  mx::array keep(const mx::array& input, mx::array& output) {
    if (input.is_donatable() && input.flags().row_contiguous) {
      output.copy_shared_buffer(input);
    } else {
      allocate(output);
      dispatch([copied = Copied(input, output)] { copied.run(); });
    }
    return output;
  }

  mx::array with_dense_rows(const mx::array& a) {
    if (a.strides(3) == 1 || a.shape(3) == 1) return a;
    mx::array dense(a.shape(), a.dtype(), nullptr, {});
    allocate(dense);
    dispatch([copied = Copied(a, dense)] { copied.run(); });
    mx::cpu::get_command_encoder(stream()).add_temporary(dense);
    return dense;
  }

  Attention describe(const std::vector<mx::array>& inputs, size_t& next, const std::vector<mx::array>& planes,
                     const Placing& placing, float* out) const {
    const auto half = planes.begin() + planes_ / 2;
    Stored keys({planes.begin(), half}), values({half, planes.end()});
    const float* sinks = options_.has_sinks ? inputs[next++].data<float>() : nullptr;
    const ScoreMask mask = options_.has_mask ? describe_mask(inputs[next++]) : ScoreMask{};
    const mx::Shape& shape = planes[0].shape();
    return {Heads(inputs[0], keys.width()), keys,  values, shape[0],        shape[1],
            shape[2],        placing.slots,  placing.lengths, options_.scale, options_.softcap,
            options_.causal, options_.window, sinks, mask,  options_.turn,   nullptr, out};
  }

  static ScoreMask describe_mask(const mx::array& mask) {
    ScoreMask described{nullptr, nullptr, mask.strides(0), mask.strides(1), mask.strides(2), mask.strides(3)};
    if (mask.dtype() == mx::bool_) described.seen = mask.data<bool>();
    else described.addends = mask.data<float>();
    return described;
  }

  Options options_;
  int planes_;
  bool writes_;
  Placing placing_;
};

using Arrays = std::vector<mx::array>;
using Optional = std::optional<mx::array>;

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

// Vectors of (rows, heads, length, width), or of (rows, length, heads * width).
struct HeadsShape {
  int rows, heads, length;

  HeadsShape(const mx::array& a, int width) {
    require(a.ndim() == 4 ? a.shape(3) == width : a.ndim() == 3 && width > 0 && a.shape(2) % width == 0,
            "Queries, keys and values must be (rows, heads, length, width) or (rows, length, heads * width).");
    const bool joined = a.ndim() == 3;
    rows = a.shape(0);
    heads = joined ? a.shape(2) / width : a.shape(1);
    length = a.shape(joined ? 1 : 2);
  }
};

void check_planes(const Arrays& planes) {
  require(planes.size() == 2, "There must be keys and values.");
  for (const auto& plane : planes) {
    require(plane.ndim() == 4 && plane.size() > 0, "The planes must be (slots, num_kv_heads, places, width).");
    require(plane.dtype() == mx::float32 || plane.dtype() == mx::float16 || plane.dtype() == mx::bfloat16,
            "The planes must hold floats of 32 or 16 bits.");
    for (int axis = 0; axis < 3; ++axis) {
      require(plane.shape(axis) == planes[0].shape(axis), "The planes must have the same places.");
    }
  }
}

void check_tokens(const Arrays& planes, const Arrays& tokens, const HeadsShape& queries, bool rotates) {
  require(tokens.empty() || tokens.size() == planes.size(), "There must be new tokens for every plane, or none.");
  for (size_t i = 0; i < tokens.size(); ++i) {
    const HeadsShape shape(tokens[i], planes[i].shape(3));
    require(shape.rows == queries.rows && shape.length == queries.length && shape.heads == planes[i].shape(1),
            "New tokens must have the rows and the length of the queries, and the heads of the planes.");
    require(tokens[i].dtype() == planes[i].dtype(), "New tokens must have the dtype of the planes.");
    require(!rotates || tokens[i].dtype() == mx::float32, "Rotated keys must be float32.");
  }
}

// Periods, positions of the first tokens, whether pairs are interleaved, and the magnitude.
using Rotation = std::tuple<mx::array, Number, bool, float>;

Arrays attend_rows(const mx::array& queries, const Arrays& planes, const Arrays& tokens, const Number& slots,
                   const Number& places, const Number& lengths, float scale, bool causal, int window, float softcap,
                   const Optional& sinks, const Optional& mask, const std::optional<Rotation>& rotation) {
  check_planes(planes);
  const int head_dim = planes[0].shape(3), num_kv_heads = planes[0].shape(1), value_dim = planes[1].shape(3);
  const HeadsShape shape(queries, head_dim);
  require(queries.dtype() == mx::float32, "Queries must be float32.");
  require(shape.heads % num_kv_heads == 0, "Heads must be a multiple of key heads.");
  check_tokens(planes, tokens, shape, rotation.has_value());
  const mx::Stream stream = cpu_stream();
  Arrays inputs{queries};
  inputs.insert(inputs.end(), planes.begin(), planes.end());
  inputs.insert(inputs.end(), tokens.begin(), tokens.end());
  Options options{scale, softcap, causal, window, sinks.has_value(), mask.has_value(), rotation.has_value(), {}};
  if (sinks) {
    require(sinks->shape() == mx::Shape{shape.heads} && sinks->dtype() == mx::float32,
            "There must be a float32 sink per head.");
    inputs.push_back(side_by_side(*sinks, stream));
  }
  if (mask) {
    require(mask->dtype() == mx::bool_ || mask->dtype() == mx::float32, "A mask must be bool or float32.");
    inputs.push_back(mx::broadcast_to(*mask, {shape.rows, shape.heads, shape.length, planes[0].shape(2)}, stream));
  }
  if (rotation) {
    const auto& [periods, offsets, interleaved, magnitude] = *rotation;
    require(periods.ndim() == 1 && periods.dtype() == mx::float32 && 2 * periods.shape(0) <= head_dim,
            "There must be a float32 period per rotated pair.");
    options.turn = {periods.shape(0), interleaved, magnitude};
    inputs.push_back(side_by_side(periods, stream));
  }
  const auto each = [&](const Number& number) { return PerRow(number, shape.rows, inputs, stream); };
  const Placing placing{each(slots), each(places), each(lengths), each(rotation ? std::get<1>(*rotation) : Number(0))};
  auto primitive =
      std::make_shared<Attend>(stream, options, static_cast<int>(planes.size()), !tokens.empty(), placing);
  std::vector<mx::Shape> shapes{mx::Shape{shape.rows, shape.heads, shape.length, value_dim}};
  if (queries.ndim() == 3) shapes[0] = {shape.rows, shape.length, shape.heads * value_dim};
  std::vector<mx::Dtype> dtypes{mx::float32};
  for (size_t i = 0; i < tokens.size(); ++i) {
    shapes.push_back(planes[i].shape());
    dtypes.push_back(planes[i].dtype());
  }
  return mx::array::make_arrays(std::move(shapes), dtypes, primitive, inputs);
}

}  // namespace

void bind_attend(nanobind::module_& module) {
  namespace nb = nanobind;
  using namespace nb::literals;
  module.def("attend_rows", &attend_rows, "queries"_a, "planes"_a, "tokens"_a, "slots"_a, "places"_a, "lengths"_a,
             "scale"_a, "causal"_a = true, "window"_a = 0, "softcap"_a = 0.0f, "sinks"_a = nb::none(),
             "mask"_a = nb::none(), "rotation"_a = nb::none(), "See engine.layers.attend_rows.");
}

}  // namespace bramley
