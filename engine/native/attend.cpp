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
#include "in_place.hpp"
#include "rows.hpp"
#include "strided.hpp"
#include "threads.hpp"

namespace bramley {
namespace {

// Keys or values of new tokens, and the planes that take them.
class Written {
 public:
  // planes: the outputs, dense
  Written(const mx::array& tokens, const Stored& stored, mx::array* planes)
      : from_(tokens, stored.width()),
        element_stride_(tokens.strides(-1) * static_cast<int64_t>(tokens.itemsize())),
        to_(planes[0].data<uint8_t>()),
        quantization_(stored.quantization()),
        rows_(tokens.shape(0)),
        heads_(planes[0].shape(1)),
        length_(tokens.shape(tokens.ndim() == 3 ? 1 : 2)),
        slots_(planes[0].shape(0)),
        places_(planes[0].shape(2)),
        item_bytes_(tokens.itemsize()) {
    if (quantization_.bits == 0) return;
    scales_ = planes[1].data<float>();
    biases_ = planes[2].data<float>();
  }

  // A token whose slot or place does not exist is dropped. tables: of the rotation, or null; see Attention.
  void run(const PerRow& slot_of, const PerRow& place_of, const Rotation& rotation, const float* tables) const {
    const int64_t vectors = static_cast<int64_t>(rows_) * heads_;
    const int64_t bytes = vectors * length_ * quantization_.width * static_cast<int64_t>(item_bytes_);
    const int parts = static_cast<int>(std::min(vectors, bytes / kBytesPerPart + 1));
    parallel(parts, [&](int part) {
      std::vector<float> storage(2 * quantization_.width);
      for (int64_t at = vectors * part / parts; at < vectors * (part + 1) / parts; ++at) {
        const int row = static_cast<int>(at / heads_), head = static_cast<int>(at % heads_);
        const int slot = slot_of[row], place = place_of[row];
        if (slot < 0 || slot >= slots_ || place < 0) continue;
        for (int i = 0; i < std::min(length_, places_ - place); ++i) {
          const int64_t target = (static_cast<int64_t>(slot) * heads_ + head) * places_ + place + i;
          const float* table =
              tables == nullptr ? nullptr : tables + (static_cast<int64_t>(row) * length_ + i) * rotation.table_size();
          write(from_.at(row, head, i), rotation, table, target, storage.data());
        }
      }
    });
  }

 private:
  void write(const uint8_t* token, const Rotation& rotation, const float* table, int64_t target, float* storage) const {
    if (quantization_.bits == 0 && table == nullptr) {
      copy(token, to_ + target * quantization_.width * item_bytes_);
      return;
    }
    copy(token, reinterpret_cast<uint8_t*>(storage));
    const float* x = storage;
    float* turned = quantization_.bits == 0 ? reinterpret_cast<float*>(to_) + target * quantization_.width
                                       : storage + quantization_.width;
    if (table != nullptr) {
      rotate_vector(rotation, table, x, quantization_.width, turned);
      x = turned;
    }
    if (quantization_.bits == 0) return;
    const int64_t group = target * quantization_.groups;
    quantize_head(quantization_, x, to_ + target * quantization_.bytes(), scales_ + group, biases_ + group);
  }

  void copy(const uint8_t* token, uint8_t* out) const {
    if (element_stride_ == static_cast<int64_t>(item_bytes_) || quantization_.width == 1) {
      std::memcpy(out, token, quantization_.width * item_bytes_);
      return;
    }
    for (int i = 0; i < quantization_.width; ++i) {
      std::memcpy(out + i * item_bytes_, token + i * element_stride_, item_bytes_);
    }
  }

  Plane from_;
  int64_t element_stride_;  // in bytes
  uint8_t* to_;
  HeadQuantization quantization_;
  float *scales_ = nullptr, *biases_ = nullptr;
  int rows_, heads_, length_, slots_, places_;
  size_t item_bytes_;
};

struct Options {
  float scale, softcap;
  bool causal;
  int window;
  bool has_sinks, has_mask, rotates;
  int bits;  // of quantised planes, else 0
  Rotation rotation;

  // Of keys, and as many of values.
  int planes() const { return bits == 0 ? 1 : 3; }
};

// The numbers that differ from row to row.
struct KVLocation {
  PerRow slots, places, lengths, offsets;

  void find(const std::vector<mx::array>& inputs) {
    for (PerRow* each : {&slots, &places, &lengths, &offsets}) each->find(inputs);
  }
};

// Inputs: queries, the planes of keys and of values, new keys and values or none, then as far as they are given sinks,
// mask, periods, and what differs from row to row. Outputs: the attended, and the planes where there are new tokens.
class Attend : public InPlacePrimitive {
 public:
  Attend(mx::Stream stream, Options options, bool writes, KVLocation location)
      : InPlacePrimitive(stream), options_(options), writes_(writes), location_(location) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    allocate_by_position(outputs[0]);
    if (writes_) let_go(inputs, outputs);
    const int half = options_.planes();
    std::vector<mx::array> planes;
    for (int i = 0; i < 2 * half; ++i) {
      planes.push_back(writes_ ? keep(inputs[1 + i], outputs[1 + i]) : with_dense_rows(inputs[1 + i]));
    }
    KVLocation location = location_;
    location.find(inputs);
    size_t next = 1 + 2 * half + (writes_ ? 2 : 0);
    Attention attention = describe(inputs, next, planes, location, outputs[0].data<float>());
    std::vector<Written> written;
    if (writes_) {
      written.emplace_back(inputs[1 + 2 * half], attention.keys, &outputs[1]);
      written.emplace_back(inputs[2 + 2 * half], attention.values, &outputs[1 + half]);
    }
    const float* periods = options_.rotates ? inputs[next].data<float>() : nullptr;
    dispatch([written = std::move(written), attention, location, periods]() mutable {
      std::vector<float> storage, tables;
      attention.queries.bring_together(storage);
      if (periods != nullptr) attention.tables = fill_tables(attention, location, periods, tables);
      for (size_t i = 0; i < written.size(); ++i) {
        // Values are not rotated.
        written[i].run(location.slots, location.places, attention.rotation, i == 0 ? attention.tables : nullptr);
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

  static const float* fill_tables(const Attention& attention, const KVLocation& location, const float* periods,
                                  std::vector<float>& tables) {
    const int length = attention.queries.length(), size = attention.rotation.table_size();
    const int64_t vectors = static_cast<int64_t>(attention.queries.rows()) * length;
    tables.resize(vectors * size);
    const int parts = static_cast<int>(std::min(vectors, vectors * size / kElementsPerPart + 1));
    parallel(parts, [&](int part) {
      for (int64_t at = vectors * part / parts; at < vectors * (part + 1) / parts; ++at) {
        const int position = location.offsets[static_cast<int>(at / length)] + static_cast<int>(at % length);
        fill_table(attention.rotation, periods, position, tables.data() + at * size);
      }
    });
    return tables.data();
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
                     const KVLocation& location, float* out) const {
    const auto half = planes.begin() + options_.planes();
    const Stored keys({planes.begin(), half}, options_.bits), values({half, planes.end()}, options_.bits);
    const float* sinks = options_.has_sinks ? inputs[next++].data<float>() : nullptr;
    const ScoreMask mask = options_.has_mask ? describe_mask(inputs[next++]) : ScoreMask{};
    const mx::Shape& shape = planes[0].shape();
    return {.queries = Heads(inputs[0], keys.width()),
            .keys = keys,
            .values = values,
            .num_slots = shape[0],
            .num_kv_heads = shape[1],
            .places = shape[2],
            .slots = location.slots,
            .lengths = location.lengths,
            .scale = options_.scale,
            .softcap = options_.softcap,
            .causal = options_.causal,
            .window = options_.window,
            .sinks = sinks,
            .mask = mask,
            .rotation = options_.rotation,
            .tables = nullptr,
            .out = out};
  }

  static ScoreMask describe_mask(const mx::array& mask) {
    ScoreMask described{nullptr, nullptr, mask.strides(0), mask.strides(1), mask.strides(2), mask.strides(3)};
    if (mask.dtype() == mx::bool_) described.seen = mask.data<bool>();
    else described.addends = mask.data<float>();
    return described;
  }

  Options options_;
  bool writes_;
  KVLocation location_;
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

// The width of a head in its planes; throws where they are no keys or values.
int check_planes(const Arrays& planes, size_t first, int bits) {
  const mx::array& values = planes[first];
  for (size_t i = first; i < first + (bits == 0 ? 1 : 3); ++i) {
    require(planes[i].ndim() == 4 && planes[i].size() > 0, "The planes must be (slots, num_kv_heads, places, width).");
    for (int axis = 0; axis < 3; ++axis) {
      require(planes[i].shape(axis) == planes[0].shape(axis), "The planes must have the same places.");
    }
  }
  if (bits == 0) {
    require(values.dtype() == mx::float32 || values.dtype() == mx::float16 || values.dtype() == mx::bfloat16,
            "The planes must hold floats of 32 or 16 bits.");
    return values.shape(3);
  }
  const mx::array &scales = planes[first + 1], &biases = planes[first + 2];
  const int width = values.shape(3) * 32 / bits;
  require(values.dtype() == mx::uint32 && scales.dtype() == mx::float32 && biases.dtype() == mx::float32,
          "Quantised planes must be uint32 with scales and biases in float32.");
  require(scales.shape(3) == biases.shape(3) && width % (8 * scales.shape(3)) == 0,
          "Quantised planes must have whole groups.");
  return width;
}

void check_tokens(const mx::array& tokens, const mx::array& plane, int width, int bits, const HeadsShape& queries,
                  bool rotates) {
  const HeadsShape shape(tokens, width);
  require(shape.rows == queries.rows && shape.length == queries.length && shape.heads == plane.shape(1),
          "New tokens must have the rows and the length of the queries, and the heads of the planes.");
  require(bits != 0 || tokens.dtype() == plane.dtype(), "New tokens must have the dtype of the planes.");
  require((bits == 0 && !rotates) || tokens.dtype() == mx::float32, "Keys to rotate or quantise must be float32.");
}

// Periods, positions of the first tokens, whether pairs are interleaved, and the magnitude.
using GivenRotation = std::tuple<mx::array, Number, bool, float>;

Arrays attend_cached(const mx::array& queries, const Arrays& planes, const Arrays& tokens,
                   const std::optional<Number>& slots, const Number& places, const Number& lengths, float scale,
                   bool causal, int window, float softcap, const Optional& sinks, const Optional& mask,
                   const std::optional<GivenRotation>& rotation, int bits) {
  require(bits == 0 || bits == 4 || bits == 8, "Planes must be quantised in 4 or 8 bits.");
  const size_t half = bits == 0 ? 1 : 3;
  require(planes.size() == 2 * half, "There must be all planes of keys and values.");
  const int head_dim = check_planes(planes, 0, bits), value_dim = check_planes(planes, half, bits);
  const int num_kv_heads = planes[0].shape(1);
  const HeadsShape shape(queries, head_dim);
  require(queries.dtype() == mx::float32, "Queries must be float32.");
  require(shape.heads % num_kv_heads == 0, "Heads must be a multiple of key heads.");
  require(tokens.empty() || tokens.size() == 2, "There must be new keys and values, or none.");
  if (!tokens.empty()) {
    check_tokens(tokens[0], planes[0], head_dim, bits, shape, rotation.has_value());
    check_tokens(tokens[1], planes[half], value_dim, bits, shape, false);
  }
  const mx::Stream stream = cpu_stream();
  Arrays inputs{queries};
  inputs.insert(inputs.end(), planes.begin(), planes.end());
  inputs.insert(inputs.end(), tokens.begin(), tokens.end());
  Options options{scale, softcap, causal, window, sinks.has_value(), mask.has_value(), rotation.has_value(),
                  bits,  {}};
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
    options.rotation = {periods.shape(0), interleaved, magnitude};
    inputs.push_back(side_by_side(periods, stream));
  }
  const auto each = [&](const Number& number) { return PerRow(number, shape.rows, inputs, stream); };
  const KVLocation location{slots ? each(*slots) : PerRow::identity(), each(places), each(lengths),
                        each(rotation ? std::get<1>(*rotation) : Number(0))};
  auto primitive = std::make_shared<Attend>(stream, options, !tokens.empty(), location);
  std::vector<mx::Shape> shapes{mx::Shape{shape.rows, shape.heads, shape.length, value_dim}};
  if (queries.ndim() == 3) shapes[0] = {shape.rows, shape.length, shape.heads * value_dim};
  std::vector<mx::Dtype> dtypes{mx::float32};
  for (size_t i = 0; !tokens.empty() && i < planes.size(); ++i) {
    shapes.push_back(planes[i].shape());
    dtypes.push_back(planes[i].dtype());
  }
  return mx::array::make_arrays(std::move(shapes), dtypes, primitive, inputs);
}

}  // namespace

void bind_attend(nanobind::module_& module) {
  namespace nb = nanobind;
  using namespace nb::literals;
  module.def("attend_cached", &attend_cached, "queries"_a, "planes"_a, "tokens"_a, "slots"_a.none(), "places"_a,
             "lengths"_a, "scale"_a, "causal"_a = true, "window"_a = 0, "softcap"_a = 0.0f, "sinks"_a = nb::none(),
             "mask"_a = nb::none(), "rotation"_a = nb::none(), "bits"_a = 0, "See engine.attention.attend_cached.");
}

}  // namespace bramley
