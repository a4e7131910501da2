// Selective state spaces, token by token: Mamba's channels with a decay per number, Mamba-2's heads with one per head.
//
// A state's rows know nothing of each other; each sum has one order, whatever the number of tokens.
#include "recurrent.hpp"
#include "threads.hpp"

namespace bramley {
namespace {

// state_size: numbers per row of a state; group_rows: rows that share an input and an output vector
struct StateSpaceSizes {
  int heads, head_dim, groups, state_size;
  float shortest, longest;  // steps

  int mixed() const { return heads * head_dim + 2 * groups * state_size; }
};

// One row of a state: it decays, takes a new input in, and is read.
BRAMLEY_INLINE float advance_row(float* state, const float* in, const float* out, float decay, float x, int size) {
  Vector sum{};
  const Vector taken = spread(x);
  for (int i = 0; i < size; i += kWidth) {
    const int present = std::min(kWidth, size - i);
    const Vector next = read_first(state + i, present) * decay + taken * read_first(in + i, present);
    write_first(state + i, next, present);
    sum += next * read_first(out + i, present);
  }
  return sum_of(sum);
}

// Inputs: mixed, steps, A_log, dt_bias, D, then the state if there is one.
class StateSpace : public Scan {
 public:
  StateSpace(mx::Stream stream, StateSpaceSizes sizes) : Scan(stream), sizes_(sizes) {}

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    const State state = prepare(inputs.size() > 5 ? &inputs[5] : nullptr, inputs, outputs);
    Task task{sizes_, inputs[0].shape(0), inputs[0].shape(1), Rows(inputs[0]), Rows(inputs[1])};
    task.log_speeds = inputs[2].data<float>();
    task.biases = inputs[3].data<float>();
    task.passes = inputs[4].data<float>();
    task.out = outputs[0].data<float>();
    task.state = state;
    dispatch([task = std::move(task)]() mutable { task.run(); });
  }

  const char* name() const override { return "StateSpace"; }

 private:
  struct Task {
    StateSpaceSizes sizes;
    int rows, length;
    Rows mixed, steps;
    const float *log_speeds, *biases, *passes;
    float* out;
    State state;

    void run() {
      std::vector<float> storage[2];
      mixed.bring_together(storage[0]);
      steps.bring_together(storage[1]);
      const int64_t cost = static_cast<int64_t>(length) * sizes.head_dim * sizes.state_size;
      share_out(static_cast<int64_t>(rows) * sizes.heads, cost, [&](int64_t unit) { scan(unit); });
    }

    void scan(int64_t unit) const {
      const int64_t row = unit / sizes.heads;
      const int head = static_cast<int>(unit % sizes.heads);
      const int group = head / (sizes.heads / sizes.groups);
      const float speed = std::exp(log_speeds[head]);
      const int64_t begin = unit * sizes.head_dim * sizes.state_size;
      float* const own = state.behind + begin;
      state.begin(begin, static_cast<int64_t>(sizes.head_dim) * sizes.state_size);
      for (int t = 0; t < length; ++t) {
        const int64_t place = row * length + t;
        const float* const source = mixed[place];
        const float* const x = source + head * sizes.head_dim;
        const float* const in = source + sizes.heads * sizes.head_dim + group * sizes.state_size;
        const float* const read = in + sizes.groups * sizes.state_size;
        float* const found = out + (place * sizes.heads + head) * sizes.head_dim;
        const float step =
            std::min(std::max(softplus(steps[place][head] + biases[head]), sizes.shortest), sizes.longest);
        const float decay = std::exp(-speed * step);
        for (int i = 0; i < sizes.head_dim; ++i) {
          const float sum = advance_row(own + i * sizes.state_size, in, read, decay, x[i] * step, sizes.state_size);
          found[i] = sum + passes[head] * x[i];
        }
      }
    }
  };

  StateSpaceSizes sizes_;
};

constexpr int kChannels = 64;  // of Mamba that go through all tokens together

// Inputs: x, steps, in, out, speeds, D, then the state if there is one.
class ChannelSpace : public Scan {
 public:
  using Scan::Scan;

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    const State state = prepare(inputs.size() > 6 ? &inputs[6] : nullptr, inputs, outputs);
    Task task{inputs[0].shape(0), inputs[0].shape(1), inputs[0].shape(2), inputs[2].shape(2),
              Rows(inputs[0]),    Rows(inputs[1]),    Rows(inputs[2]),    Rows(inputs[3])};
    task.speeds = inputs[4].data<float>();
    task.passes = inputs[5].data<float>();
    task.results = outputs[0].data<float>();
    task.state = state;
    dispatch([task = std::move(task)]() mutable { task.run(); });
  }

  const char* name() const override { return "ChannelSpace"; }

 private:
  struct Task {
    int rows, length, channels, size;
    Rows x, steps, in, out;
    const float *speeds, *passes;
    float* results;
    State state;

    void run() {
      std::vector<float> storage[4];
      x.bring_together(storage[0]);
      steps.bring_together(storage[1]);
      in.bring_together(storage[2]);
      out.bring_together(storage[3]);
      const int pieces = (channels + kChannels - 1) / kChannels;
      const int64_t cost = static_cast<int64_t>(length) * kChannels * size * 8;  // an exponential for each
      share_out(static_cast<int64_t>(rows) * pieces, cost, [&](int64_t unit) {
        const int begin = static_cast<int>(unit % pieces) * kChannels;
        scan(unit / pieces, begin, std::min(channels, begin + kChannels));
      });
    }

    void scan(int64_t row, int begin, int end) const {
      const int64_t first = (row * channels + begin) * size;
      state.begin(first, static_cast<int64_t>(end - begin) * size);
      for (int t = 0; t < length; ++t) {
        const int64_t place = row * length + t;
        for (int channel = begin; channel < end; ++channel) {
          float* const own = state.behind + (row * channels + channel) * size;
          const float value = x[place][channel];
          results[place * channels + channel] =
              advance(own, speeds + static_cast<int64_t>(channel) * size, in[place], out[place],
                      softplus(steps[place][channel]), value) +
              passes[channel] * value;
        }
      }
    }

    float advance(float* own, const float* speed, const float* taken, const float* read, float step, float x) const {
      Vector sum{};
      for (int i = 0; i < size; i += kWidth) {
        const int present = std::min(kWidth, size - i);
        const Vector decay = exponential(read_first(speed + i, present) * -step);
        const Vector next =
            read_first(own + i, present) * decay + read_first(taken + i, present) * (x * step);
        write_first(own + i, next, present);
        sum += next * read_first(read + i, present);
      }
      return sum_of(sum);
    }
  };
};

Arrays state_space(const mx::array& mixed, const mx::array& steps, const mx::array& log_speeds,
                   const mx::array& biases, const mx::array& passes, const Optional& state, int head_dim, int groups,
                   int state_size, float shortest, float longest) {
  require(mixed.ndim() == 3 && steps.ndim() == 3 && mixed.shape(1) > 0, "Arrays must be (rows, length, numbers).");
  const int rows = mixed.shape(0), length = mixed.shape(1), heads = steps.shape(2);
  const StateSpaceSizes sizes{heads, head_dim, groups, state_size, shortest, longest};
  require(heads > 0 && head_dim > 0 && groups > 0 && state_size > 0 && heads % groups == 0 &&
              mixed.shape(2) == sizes.mixed() && steps.shape() == mx::Shape{rows, length, heads},
          "Inputs must fit the numbers of heads and groups.");
  for (const auto& each : {log_speeds, biases, passes}) {
    require(each.shape() == mx::Shape{heads}, "There must be one speed, bias and factor per head.");
  }
  const mx::Shape kept{rows, heads, head_dim, state_size};
  require(!state || state->shape() == kept, "The state must be (rows, heads, head size, state size).");
  const mx::Stream stream = cpu_stream();
  Arrays inputs{mixed, steps, side_by_side(log_speeds, stream), side_by_side(biases, stream),
                side_by_side(passes, stream)};
  if (state) inputs.push_back(side_by_side(*state, stream));
  require_floats(inputs);
  return mx::array::make_arrays({mx::Shape{rows, length, heads, head_dim}, kept}, {mx::float32, mx::float32},
                                std::make_shared<StateSpace>(stream, sizes), inputs);
}

Arrays channel_space(const mx::array& x, const mx::array& steps, const mx::array& in, const mx::array& out,
                     const mx::array& speeds, const mx::array& passes, const Optional& state) {
  require(x.ndim() == 3 && in.ndim() == 3 && x.shape(1) > 0 && x.shape(2) > 0 && in.shape(2) > 0 &&
              steps.shape() == x.shape(),
          "x and its steps must be (rows, length, channels).");
  const int rows = x.shape(0), length = x.shape(1), channels = x.shape(2), size = in.shape(2);
  require(in.shape() == mx::Shape{rows, length, size} && out.shape() == in.shape() &&
              speeds.shape() == mx::Shape{channels, size} && passes.shape() == mx::Shape{channels},
          "Inputs must fit the channels and the state.");
  const mx::Shape kept{rows, channels, size};
  require(!state || state->shape() == kept, "The state must be (rows, channels, state size).");
  const mx::Stream stream = cpu_stream();
  Arrays inputs{x, steps, in, out, side_by_side(speeds, stream), side_by_side(passes, stream)};
  if (state) inputs.push_back(side_by_side(*state, stream));
  require_floats(inputs);
  return mx::array::make_arrays({x.shape(), kept}, {mx::float32, mx::float32}, std::make_shared<ChannelSpace>(stream),
                                inputs);
}

}  // namespace

void bind_state_space(nanobind::module_& module) {
  namespace nb = nanobind;
  using namespace nb::literals;
  module.def("state_space", &state_space, "mixed"_a, "steps"_a, "A_log"_a, "dt_bias"_a, "D"_a, "state"_a.none(),
             "head_dim"_a, "groups"_a, "state_size"_a, "shortest"_a, "longest"_a,
             "Mamba-2 over its inputs, B and C side by side (rows, length, numbers): what is read (rows, length, "
             "heads, head size), and the state (rows, heads, head size, state size).");
  module.def("channel_space", &channel_space, "x"_a, "steps"_a, "in_"_a, "out"_a, "speeds"_a, "D"_a,
             "state"_a.none(),
             "Mamba over channels (rows, length, channels): what is read, and the state (rows, channels, state "
             "size). speeds: (channels, state size), above 0.");
}

}  // namespace bramley
