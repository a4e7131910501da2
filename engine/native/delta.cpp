// The gated delta rule, token by token: a head's memory is read with a key, and corrected by what it should have said.
//
// Rows of a memory know nothing of each other. A few of them go through all tokens before the next ones do, so that
// they stay in the nearest cache; each sum has one order, whatever the number of tokens.
#include "recurrent.hpp"
#include "threads.hpp"

namespace bramley {
namespace {

constexpr int kTogether = 4;  // rows of a memory

// tiled: value heads take turns among the key heads, instead of following the one they share
struct DeltaSizes {
  int key_heads, value_heads, key_dim, value_dim;
  bool tiled;

  int key_head(int head) const { return tiled ? head % key_heads : head / (value_heads / key_heads); }
  int mixed() const { return 2 * key_heads * key_dim + value_heads * value_dim; }
};

// One token of one head. query and key are padded with zeros to whole vectors.
struct DeltaToken {
  const float *query, *key, *value;
  float* out;
  float decay, rate, agreement;  // agreement: query times key
};

template <int rows>
void correct(float* memory, int key_dim, const DeltaToken& token, int first) {
  Vector by_key[rows] = {}, by_query[rows] = {};
  for (int i = 0; i < key_dim; i += kWidth) {
    const int present = std::min(kWidth, key_dim - i);
    const Vector key = read_vector(token.key + i), query = read_vector(token.query + i);
#pragma GCC unroll 4
    for (int row = 0; row < rows; ++row) {
      const Vector known = read_first(memory + row * key_dim + i, present);
      by_key[row] += known * key;
      by_query[row] += known * query;
    }
  }
  Vector change[rows];
#pragma GCC unroll 4
  for (int row = 0; row < rows; ++row) {
    const float correction = (token.value[first + row] - token.decay * sum_of(by_key[row])) * token.rate;
    token.out[first + row] = token.decay * sum_of(by_query[row]) + correction * token.agreement;
    change[row] = spread(correction);
  }
  for (int i = 0; i < key_dim; i += kWidth) {
    const int present = std::min(kWidth, key_dim - i);
    const Vector key = read_vector(token.key + i);
#pragma GCC unroll 4
    for (int row = 0; row < rows; ++row) {
      float* const place = memory + row * key_dim + i;
      write_first(place, read_first(place, present) * token.decay + change[row] * key, present);
    }
  }
}

// x over its length, times a factor, padded with zeros: `padded` numbers.
void to_length_one(const float* x, float* out, int size, int padded, float factor) {
  Vector squares{};
  for (int i = 0; i < size; i += kWidth) {
    const Vector part = read_first(x + i, std::min(kWidth, size - i));
    squares += part * part;
  }
  const float scale = factor / std::sqrt(sum_of(squares) + 1e-6f);
  for (int i = 0; i < padded; i += kWidth) write_vector(out + i, read_first(x + i, std::max(size - i, 0)) * scale);
}

// Inputs: mixed, decays, rates, A_log, dt_bias, then the memory if there is one.
class GatedDelta : public Scan {
 public:
  GatedDelta(mx::Stream stream, DeltaSizes sizes) : Scan(stream), sizes_(sizes) {}

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    const State state = prepare(inputs.size() > 5 ? &inputs[5] : nullptr, inputs, outputs);
    Task task{sizes_, inputs[0].shape(0), inputs[0].shape(1), Rows(inputs[0]), Rows(inputs[1]), Rows(inputs[2])};
    task.log_speeds = inputs[3].data<float>();
    task.biases = inputs[4].data<float>();
    task.out = outputs[0].data<float>();
    task.state = state;
    dispatch([task = std::move(task)]() mutable { task.run(); });
  }

  const char* name() const override { return "GatedDelta"; }

 private:
  struct Task {
    DeltaSizes sizes;
    int rows, length;
    Rows mixed, steps, rates;
    const float *log_speeds, *biases;
    float* out;
    State state;

    void run() {
      std::vector<float> storage[3];
      mixed.bring_together(storage[0]);
      steps.bring_together(storage[1]);
      rates.bring_together(storage[2]);
      const int64_t cost = static_cast<int64_t>(length) * sizes.key_dim * sizes.value_dim;
      share_out(static_cast<int64_t>(rows) * sizes.value_heads, cost, [&](int64_t unit) { scan(unit); });
    }

    void scan(int64_t unit) const {
      const int64_t row = unit / sizes.value_heads;
      const int head = static_cast<int>(unit % sizes.value_heads);
      std::vector<float> storage;
      const std::vector<DeltaToken> tokens = prepare_tokens(row, head, storage);
      const int64_t first = unit * sizes.value_dim * sizes.key_dim;
      for (int i = 0; i < sizes.value_dim; i += kTogether) {
        const int together = std::min(kTogether, sizes.value_dim - i);
        const int64_t begin = first + static_cast<int64_t>(i) * sizes.key_dim;
        state.begin(begin, static_cast<int64_t>(together) * sizes.key_dim);
        scan_rows(tokens, state.behind + begin, i, together);
      }
    }

    void scan_rows(const std::vector<DeltaToken>& tokens, float* memory, int first, int together) const {
      for (const DeltaToken& token : tokens) {
        if (together == kTogether) {
          correct<kTogether>(memory, sizes.key_dim, token, first);
        } else {
          for (int i = 0; i < together; ++i) {
            correct<1>(memory + i * sizes.key_dim, sizes.key_dim, token, first + i);
          }
        }
      }
    }

    // storage: for queries and keys
    std::vector<DeltaToken> prepare_tokens(int64_t row, int head, std::vector<float>& storage) const {
      const int padded = (sizes.key_dim + kWidth - 1) / kWidth * kWidth;
      const int key_head = sizes.key_head(head);
      const float speed = std::exp(log_speeds[head]), scale = 1.0f / std::sqrt(static_cast<float>(sizes.key_dim));
      storage.resize(static_cast<size_t>(2) * padded * length);
      std::vector<DeltaToken> tokens(length);
      for (int t = 0; t < length; ++t) {
        const int64_t place = row * length + t;
        const float* const source = mixed[place];
        float* const query = storage.data() + static_cast<size_t>(2) * padded * t;
        float* const key = query + padded;
        to_length_one(source + key_head * sizes.key_dim, query, sizes.key_dim, padded, scale);
        to_length_one(source + (sizes.key_heads + key_head) * sizes.key_dim, key, sizes.key_dim, padded, 1.0f);
        tokens[t] = {query, key, source + 2 * sizes.key_heads * sizes.key_dim + head * sizes.value_dim,
                     out + (place * sizes.value_heads + head) * sizes.value_dim,
                     std::exp(-speed * softplus(steps[place][head] + biases[head])), sigmoid(rates[place][head]),
                     product(query, key, padded)};
      }
      return tokens;
    }

    static float product(const float* a, const float* b, int padded) {
      Vector sum{};
      for (int i = 0; i < padded; i += kWidth) sum += read_vector(a + i) * read_vector(b + i);
      return sum_of(sum);
    }
  };

  DeltaSizes sizes_;
};

Arrays gated_delta(const mx::array& mixed, const mx::array& steps, const mx::array& rates, const mx::array& log_speeds,
                   const mx::array& biases, const Optional& memory, int key_heads, int key_dim, int value_dim,
                   bool tiled) {
  require(mixed.ndim() == 3 && steps.ndim() == 3 && mixed.shape(1) > 0, "Arrays must be (rows, length, numbers).");
  const int rows = mixed.shape(0), length = mixed.shape(1), heads = steps.shape(2);
  const DeltaSizes sizes{key_heads, heads, key_dim, value_dim, tiled};
  require(key_heads > 0 && key_dim > 0 && value_dim > 0 && heads > 0 && heads % key_heads == 0 &&
              mixed.shape(2) == sizes.mixed(),
          "Queries, keys and values must fit the numbers of heads.");
  require(steps.shape() == mx::Shape{rows, length, heads} && rates.shape() == steps.shape(),
          "There must be one step and one rate per token and head.");
  require(log_speeds.shape() == mx::Shape{heads} && biases.shape() == mx::Shape{heads},
          "There must be one speed and one bias per head.");
  const mx::Shape kept{rows, heads, value_dim, key_dim};
  require(!memory || memory->shape() == kept, "The memory must be (rows, value heads, value size, key size).");
  const mx::Stream stream = cpu_stream();
  Arrays inputs{mixed, steps, rates, side_by_side(log_speeds, stream), side_by_side(biases, stream)};
  if (memory) inputs.push_back(side_by_side(*memory, stream));
  require_floats(inputs);
  return mx::array::make_arrays({mx::Shape{rows, length, heads, value_dim}, kept}, {mx::float32, mx::float32},
                                std::make_shared<GatedDelta>(stream, sizes), inputs);
}

}  // namespace

void bind_delta(nanobind::module_& module) {
  namespace nb = nanobind;
  using namespace nb::literals;
  module.def("gated_delta", &gated_delta, "mixed"_a, "steps"_a, "rates"_a, "A_log"_a, "dt_bias"_a, "memory"_a.none(),
             "key_heads"_a, "key_dim"_a, "value_dim"_a, "tiled"_a = false,
             "The gated delta rule over queries, keys and values side by side (rows, length, numbers): what is found "
             "(rows, length, value heads, value size), and the memory (rows, value heads, value size, key size).");
}

}  // namespace bramley
