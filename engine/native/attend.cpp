// Attention as an MLX operation: new keys and values are written into the cache's own arrays, then the queries attend.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <mlx/backend/common/utils.h>

#include <algorithm>
#include <cstring>
#include <optional>

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
      : from(tokens),
        element_stride(tokens.strides(3) * static_cast<int64_t>(tokens.itemsize())),
        to(plane.data<uint8_t>()),
        rows(tokens.shape(0)),
        heads(tokens.shape(1)),
        length(tokens.shape(2)),
        width(tokens.shape(3)),
        slots(plane.shape(0)),
        places(plane.shape(2)),
        item_bytes(tokens.itemsize()) {}

  // A token whose slot or place does not exist is dropped.
  void run(const PerRow& slot_of, const PerRow& place_of) const {
    const int64_t vectors = static_cast<int64_t>(rows) * heads;
    const int parts = static_cast<int>(
        std::min(vectors, vectors * length * width * static_cast<int64_t>(item_bytes) / kBytesPerPart + 1));
    parallel(parts, [&](int part) {
      for (int64_t at = vectors * part / parts; at < vectors * (part + 1) / parts; ++at) {
        const int row = static_cast<int>(at / heads), head = static_cast<int>(at % heads);
        const int slot = slot_of[row], place = place_of[row];
        if (slot < 0 || slot >= slots || place < 0) continue;
        for (int i = 0; i < std::min(length, places - place); ++i) {
          copy(from.at(row, head, i), to + ((static_cast<int64_t>(slot) * heads + head) * places + place + i) * width *
                                               item_bytes);
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
};

struct Options {
  float scale, softcap;
  bool causal;
  int window;
  bool has_sinks, has_mask;
};

// Inputs: queries, the planes, new tokens for each of them or none, sinks, mask, then slots, places and lengths where
// they differ. Outputs: the attended, and the planes where there are new tokens.
class Attend : public CpuPrimitive {
 public:
  Attend(mx::Stream stream, Options options, int planes, bool writes, PerRow slots, PerRow places, PerRow lengths)
      : CpuPrimitive(stream),
        options_(options),
        planes_(planes),
        writes_(writes),
        slots_(slots),
        places_(places),
        lengths_(lengths) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    allocate_by_position(outputs[0]);
    if (writes_) let_go(inputs, outputs);
    PerRow slots = slots_, places = places_, lengths = lengths_;
    for (PerRow* each : {&slots, &places, &lengths}) each->find(inputs);
    std::vector<Written> written;
    std::vector<mx::array> planes;
    for (int i = 0; i < planes_; ++i) {
      planes.push_back(writes_ ? keep(inputs[1 + i], outputs[1 + i]) : with_dense_rows(inputs[1 + i]));
      if (writes_) written.emplace_back(inputs[1 + planes_ + i], outputs[1 + i]);
    }
    Attention attention = describe(inputs, planes, slots, lengths, outputs[0].data<float>());
    dispatch([written = std::move(written), attention, slots, places]() mutable {
      for (const auto& each : written) each.run(slots, places);
      std::vector<float> storage;
      attention.queries.bring_together(storage);
      attend(attention);
    });
  }

  const char* name() const override { return "Attend"; }

 private:
  // (rows, heads, length, width) with the heads of a position side by side, as the next projection reads them.
  static void allocate_by_position(mx::array& out) {
    const int64_t heads = out.shape(1), length = out.shape(2), width = out.shape(3);
    const mx::Strides strides{length * heads * width, width, heads * width, 1};
    const auto [size, by_row, by_column] = mx::check_contiguity(out.shape(), strides);
    out.set_data(mx::allocator::malloc(out.nbytes()), size, strides, {true, by_row, by_column});
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

  Attention describe(const std::vector<mx::array>& inputs, const std::vector<mx::array>& planes, const PerRow& slots,
                     const PerRow& lengths, float* out) const {
    const auto half = planes.begin() + planes_ / 2;
    Stored keys({planes.begin(), half}), values({half, planes.end()});
    size_t next = 1 + planes_ * (writes_ ? 2 : 1);
    const float* sinks = options_.has_sinks ? inputs[next++].data<float>() : nullptr;
    ScoreMask mask;
    if (options_.has_mask) mask = describe_mask(inputs[next]);
    return {Heads(inputs[0]),  keys,         values,          planes[0].shape(0), planes[0].shape(1),
            planes[0].shape(2), slots,       lengths,         options_.scale,     options_.softcap,
            options_.causal,   options_.window, sinks,        mask,               out};
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
  PerRow slots_, places_, lengths_;
};

using Arrays = std::vector<mx::array>;
using Optional = std::optional<mx::array>;

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

void check_planes(const Arrays& planes, const Arrays& tokens, const mx::array& queries) {
  require(planes.size() == 2, "There must be keys and values.");
  require(tokens.empty() || tokens.size() == planes.size(), "There must be new tokens for every plane, or none.");
  for (size_t i = 0; i < planes.size(); ++i) {
    const auto& plane = planes[i];
    require(plane.ndim() == 4 && plane.size() > 0, "Keys and values must be (slots, num_kv_heads, places, width).");
    require(plane.dtype() == mx::float32 || plane.dtype() == mx::float16 || plane.dtype() == mx::bfloat16,
            "Keys and values must be floats of 32 or 16 bits.");
    for (int axis = 0; axis < 3; ++axis) {
      require(plane.shape(axis) == planes[0].shape(axis), "Keys and values must have the same places.");
    }
    if (tokens.empty()) continue;
    require(tokens[i].ndim() == 4 && tokens[i].dtype() == plane.dtype() && tokens[i].shape(0) == queries.shape(0) &&
                tokens[i].shape(1) == plane.shape(1) && tokens[i].shape(2) == queries.shape(2) &&
                tokens[i].shape(3) == plane.shape(3),
            "New tokens must be (rows, num_kv_heads, length, width) in the dtype of the cache.");
  }
}

Arrays attend_rows(const mx::array& queries, const Arrays& planes, const Arrays& tokens, const Number& slots,
                   const Number& places, const Number& lengths, float scale, bool causal, int window, float softcap,
                   const Optional& sinks, const Optional& mask) {
  require(queries.ndim() == 4 && queries.dtype() == mx::float32,
          "Queries must be float32 (rows, num_heads, length, head_dim).");
  check_planes(planes, tokens, queries);
  const int rows = queries.shape(0), num_heads = queries.shape(1), length = queries.shape(2);
  require(num_heads % planes[0].shape(1) == 0, "Heads must be a multiple of key heads.");
  require(queries.shape(3) == planes[0].shape(3), "Queries and keys must have one width.");
  const mx::Stream stream = cpu_stream();
  Arrays inputs{queries};
  inputs.insert(inputs.end(), planes.begin(), planes.end());
  inputs.insert(inputs.end(), tokens.begin(), tokens.end());
  if (sinks) {
    require(sinks->shape() == mx::Shape{num_heads} && sinks->dtype() == mx::float32, "There must be a sink per head.");
    inputs.push_back(side_by_side(*sinks, stream));
  }
  if (mask) {
    require(mask->dtype() == mx::bool_ || mask->dtype() == mx::float32, "A mask must be bool or float32.");
    inputs.push_back(mx::broadcast_to(*mask, {rows, num_heads, length, planes[0].shape(2)}, stream));
  }
  const PerRow slot(slots, rows, inputs, stream), place(places, rows, inputs, stream);
  const PerRow seen(lengths, rows, inputs, stream);
  const Options options{scale, softcap, causal, window, sinks.has_value(), mask.has_value()};
  auto primitive = std::make_shared<Attend>(stream, options, static_cast<int>(planes.size()), !tokens.empty(), slot,
                                            place, seen);
  std::vector<mx::Shape> shapes{{rows, num_heads, length, planes[1].shape(3)}};
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
             "mask"_a = nb::none(), "See engine.layers.attend_rows.");
}

}  // namespace bramley
