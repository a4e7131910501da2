// A short causal convolution along the tokens, channel by channel. A token's result has one order of sums.
#include "recurrent.hpp"
#include "threads.hpp"

namespace bramley {
namespace {

constexpr int kChannels = 1024;  // of one token that are computed together
constexpr int kMaxWidth = 16;

struct ConvolutionSizes {
  int width, channels;
  bool biased, continued, activated;
};

// One token's inputs, oldest first, to one token's results. weight: (width, channels); bias may be null.
void convolve(const ConvolutionSizes& sizes, const float* const* inputs, const float* weight, const float* bias,
              float* out, int begin, int end) {
  for (int i = begin; i < end; i += kWidth) {
    const int present = std::min(kWidth, end - i);
    Vector y = bias == nullptr ? Vector{} : read_first(bias + i, present);
    for (int k = 0; k < sizes.width; ++k) {
      y += read_first(inputs[k] + i, present) * read_first(weight + k * sizes.channels + i, present);
    }
    if (sizes.activated) y = y / (exponential(-y) + 1.0f);
    write_first(out + i, y, present);
  }
}

// Inputs: x, weight, then bias and tail as far as they are given. Outputs: the results, the new tail.
class Convolution : public CpuPrimitive {
 public:
  Convolution(mx::Stream stream, ConvolutionSizes sizes) : CpuPrimitive(stream), sizes_(sizes) {}

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    allocate(outputs[0]);
    allocate(outputs[1]);
    Task task{sizes_, inputs[0].shape(0), inputs[0].shape(1), Rows(inputs[0])};
    task.weight = inputs[1].data<float>();
    task.bias = sizes_.biased ? inputs[2].data<float>() : nullptr;
    task.tail = sizes_.continued ? inputs.back().data<float>() : nullptr;
    task.out = outputs[0].data<float>();
    task.next_tail = outputs[1].data<float>();
    dispatch([task = std::move(task)]() mutable { task.run(); });
  }

  const char* name() const override { return "Convolution"; }

 private:
  struct Task {
    ConvolutionSizes sizes;
    int rows, length;
    Rows x;
    const float *weight, *bias, *tail;  // bias and tail may be null
    float *out, *next_tail;

    void run() {
      std::vector<float> storage;
      x.bring_together(storage);
      const std::vector<float> zeros(tail == nullptr ? sizes.channels : 0);
      const int pieces = (sizes.channels + kChannels - 1) / kChannels;
      share_out(static_cast<int64_t>(rows) * length * pieces, std::min(sizes.channels, kChannels) * sizes.width,
                [&](int64_t unit) {
                  const int64_t token = unit / pieces;
                  const int begin = static_cast<int>(unit % pieces) * kChannels;
                  const float* inputs[kMaxWidth];
                  for (int k = 0; k < sizes.width; ++k) {
                    inputs[k] = input(token / length, token % length + k, zeros.data());
                  }
                  convolve(sizes, inputs, weight, bias, out + token * sizes.channels, begin,
                           std::min(sizes.channels, begin + kChannels));
                });
      const int kept = sizes.width - 1;
      for (int i = 0; i < rows * kept; ++i) {
        std::memcpy(next_tail + static_cast<int64_t>(i) * sizes.channels,
                    input(i / kept, length + i % kept, zeros.data()), sizeof(float) * sizes.channels);
      }
    }

    // The inputs of a row, the kept ones first.
    const float* input(int64_t row, int64_t place, const float* zeros) const {
      const int kept = sizes.width - 1;
      if (place >= kept) return x[row * length + place - kept];
      return tail == nullptr ? zeros : tail + (row * kept + place) * sizes.channels;
    }
  };

  ConvolutionSizes sizes_;
};

Arrays convolution(const mx::array& x, const mx::array& weight, const Optional& bias, const Optional& tail,
                   bool activated) {
  require(x.ndim() == 3 && weight.ndim() == 2 && weight.shape(1) == x.shape(2) && x.shape(1) > 0 && x.shape(2) > 0,
          "x must be (rows, length, channels), and weight (width, channels).");
  const int rows = x.shape(0), width = weight.shape(0), channels = x.shape(2);
  require(width >= 1 && width <= kMaxWidth, "There must be from 1 to 16 weights per channel.");
  const mx::Shape kept{rows, width - 1, channels};
  require(!bias || bias->shape() == mx::Shape{channels}, "There must be one bias per channel.");
  require(!tail || tail->shape() == kept, "The tail must hold one token less than the weights.");
  const mx::Stream stream = cpu_stream();
  Arrays inputs{x, side_by_side(weight, stream)};
  if (bias) inputs.push_back(side_by_side(*bias, stream));
  if (tail) inputs.push_back(side_by_side(*tail, stream));
  require_floats(inputs);
  const ConvolutionSizes sizes{width, channels, bias.has_value(), tail.has_value(), activated};
  return mx::array::make_arrays({x.shape(), kept}, {mx::float32, mx::float32},
                                std::make_shared<Convolution>(stream, sizes), inputs);
}

}  // namespace

void bind_convolution(nanobind::module_& module) {
  namespace nb = nanobind;
  using namespace nb::literals;
  module.def("convolve", &convolution, "x"_a, "weight"_a, "bias"_a.none(), "tail"_a.none(), "activated"_a,
             "A causal convolution of each channel (rows, length, channels) by itself, with SiLU behind it where it is "
             "activated, and the last inputs. weight: (width, channels); tail: (rows, width - 1, channels).");
}

}  // namespace bramley
