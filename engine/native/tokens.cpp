// Tokens' keys and values on their way between slots and stored blocks. Copies bytes; knows no numbers.
#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>

#include <cstring>

#include "in_place.hpp"

namespace bramley {
namespace {

using Arrays = std::vector<mx::array>;

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

// Memory that nothing has written to.
class Empty : public CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;

  void eval_cpu(const Arrays&, Arrays& outputs) override { allocate(outputs[0]); }

  const char* name() const override { return "Empty"; }
};

// One of several arrays of (1, heads, tokens, width), of which each head's tokens lie side by side.
struct HeadRuns {
  const uint8_t* data;
  int64_t head_bytes;  // from one head to the next

  explicit HeadRuns(const mx::array& a)
      : data(a.data<uint8_t>()), head_bytes(a.strides(1) * static_cast<int64_t>(a.itemsize())) {}
};

bool has_runs(const mx::array& a) {
  return (a.shape(3) == 1 || a.strides(3) == 1) && (a.shape(2) == 1 || a.strides(2) == a.shape(3));
}

class Stack : public CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    allocate(outputs[0]);
    std::vector<HeadRuns> runs;
    for (const auto& each : inputs) runs.emplace_back(has_runs(each) ? each : dense(each));
    const int heads = outputs[0].shape(1);
    const size_t bytes = outputs[0].nbytes() / (inputs.size() * heads);
    dispatch([runs = std::move(runs), heads, bytes, out = outputs[0].data<uint8_t>()] {
      parallel(static_cast<int>(runs.size()), [&](int part) {
        for (int head = 0; head < heads; ++head) {
          std::memcpy(out + (static_cast<size_t>(part) * heads + head) * bytes,
                      runs[part].data + head * runs[part].head_bytes, bytes);
        }
      });
    });
  }

  const char* name() const override { return "Stack"; }

 private:
  mx::array dense(const mx::array& a) {
    mx::array copy(a.shape(), a.dtype(), nullptr, {});
    allocate(copy);
    dispatch([copied = Copied(a, copy)] { copied.run(); });
    mx::cpu::get_command_encoder(stream()).add_temporary(copy);
    return copy;
  }
};

// Inputs: planes, then blocks. Outputs: the planes.
class WriteBlocks : public InPlacePrimitive {
 public:
  WriteBlocks(mx::Stream stream, std::vector<int> counts, int slot, int place)
      : InPlacePrimitive(stream), counts_(std::move(counts)), slot_(slot), place_(place) {}

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    let_go(inputs, outputs);
    const size_t planes = outputs.size();
    std::vector<Target> targets;
    for (size_t i = 0; i < planes; ++i) {
      mx::array plane = keep(inputs[i], outputs[i]);
      targets.push_back({plane.data<uint8_t>(), plane.shape(2)});
    }
    std::vector<Source> sources;
    for (size_t i = 0; i < counts_.size(); ++i) {
      const mx::array& block = inputs[planes + i];
      sources.push_back({dense_data<uint8_t>(block), block.shape(2), counts_[i]});
    }
    const mx::Shape& shape = outputs[0].shape();
    const size_t token_bytes = shape[3] * outputs[0].itemsize();
    dispatch([targets = std::move(targets), sources = std::move(sources), heads = shape[1], slot = slot_,
              place = place_, token_bytes] {
      parallel(static_cast<int>(targets.size()), [&](int plane) {
        for (int head = 0; head < heads; ++head) {
          const auto [data, places] = targets[plane];
          uint8_t* out = data + ((static_cast<size_t>(slot) * heads + head) * places + place) * token_bytes;
          for (const Source& source : sources) {
            const size_t from = (static_cast<size_t>(plane) * heads + head) * source.tokens * token_bytes;
            std::memcpy(out, source.data + from, source.count * token_bytes);
            out += source.count * token_bytes;
          }
        }
      });
    });
  }

  const char* name() const override { return "WriteBlocks"; }

 private:
  struct Target {
    uint8_t* data;
    int64_t places;
  };

  struct Source {
    const uint8_t* data;
    int tokens, count;
  };

  std::vector<int> counts_;
  int slot_, place_;
};

mx::array empty(const std::vector<int>& shape, mx::Dtype dtype) {
  return mx::array(mx::Shape(shape.begin(), shape.end()), dtype, std::make_shared<Empty>(cpu_stream()), {});
}

mx::array stack_planes(const Arrays& planes) {
  require(!planes.empty() && planes[0].ndim() == 4 && planes[0].shape(0) == 1 && planes[0].size() > 0,
          "Planes must be (1, heads, tokens, width).");
  for (const auto& plane : planes) {
    require(plane.shape() == planes[0].shape() && plane.dtype() == planes[0].dtype(), "Planes must be alike.");
  }
  auto shape = planes[0].shape();
  shape[0] = static_cast<int>(planes.size());
  return mx::array(shape, planes[0].dtype(), std::make_shared<Stack>(cpu_stream()), planes);
}

Arrays write_blocks(const Arrays& planes, const Arrays& blocks, const std::vector<int>& counts, int slot, int place) {
  require(!planes.empty() && planes[0].ndim() == 4 && blocks.size() == counts.size(),
          "There must be planes of (slots, heads, places, width), and a count for each block.");
  const auto& shape = planes[0].shape();
  int64_t end = place;
  for (const int count : counts) {
    require(count >= 0, "Counts must not be negative.");
    end += count;
  }
  Arrays inputs = planes;
  std::vector<mx::Shape> shapes;
  for (const auto& plane : planes) {
    shapes.push_back(plane.shape());
    require(plane.ndim() == 4 && plane.shape(1) == shape[1] && plane.shape(3) == shape[3] &&
                plane.dtype() == planes[0].dtype(),
            "Planes must have the same heads.");
    require(slot >= 0 && slot < plane.shape(0) && place >= 0 && end <= plane.shape(2),
            "The tokens must fit into the slot.");
  }
  const mx::Stream stream = cpu_stream();
  for (size_t i = 0; i < blocks.size(); ++i) {
    const auto& block = blocks[i];
    require(block.ndim() == 4 && block.shape(0) == static_cast<int>(planes.size()) && block.shape(1) == shape[1] &&
                block.shape(2) >= counts[i] && block.shape(3) == shape[3] && block.dtype() == planes[0].dtype(),
            "A block must be (planes, heads, tokens, width), with at least the tokens that are counted.");
    inputs.push_back(mx::contiguous(block, false, stream));
  }
  return mx::array::make_arrays(std::move(shapes), std::vector<mx::Dtype>(planes.size(), planes[0].dtype()),
                                std::make_shared<WriteBlocks>(stream, counts, slot, place), inputs);
}

}  // namespace

void bind_tokens(nanobind::module_& module) {
  namespace nb = nanobind;
  using namespace nb::literals;
  module.def("empty", &empty, "shape"_a, "dtype"_a, "Memory whose contents mean nothing.");
  module.def("stack_planes", &stack_planes, "planes"_a,
             "Planes (1, heads, tokens, width) as one array (planes, heads, tokens, width).");
  module.def("write_blocks", &write_blocks, "planes"_a, "blocks"_a, "counts"_a, "slot"_a, "place"_a,
             "The planes (slots, heads, places, width) with the first counts[i] tokens of each block "
             "(planes, heads, tokens, width) written into a slot, one block after the other, from a place on.");
}

}  // namespace bramley
