// Draws a token per row from the softmax of logits, cut by top-k, top-p and min-p. Knows nothing of seeds: a row brings
// its own random number.
#include <nanobind/nanobind.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <vector>

#include "primitive.hpp"
#include "rows.hpp"
#include "threads.hpp"
#include "vector.hpp"

namespace bramley {
namespace {

constexpr int kChunk = 512;  // weights that are summed in float32

struct Cut {
  float temperature;  // 0 takes the most likely token
  int top_k;          // 0 for all
  float top_p;
  float min_p;
  float uniform;  // in [0, 1)
};

// Weights between 0 and 1 in buckets by the leading bits of their representation, which sort as the numbers do.
class Buckets {
 public:
  explicit Buckets(const float* weights, int count) : weights_(weights), count_(count), of_(kBuckets) {
    for (int i = 0; i < count; ++i) {
      Bucket& bucket = of_[number(weights[i])];
      ++bucket.count;
      bucket.sum += weights[i];
    }
  }

  // The smallest of the largest weights of which, each with those before it, `goes_on(before, sum)` holds.
  template <class GoesOn>
  float last_of(const GoesOn& goes_on, int& taken, double& sum) const {
    float last = 1.0f;
    taken = 0;
    sum = 0.0;
    for (int bucket = kBuckets - 1; bucket >= 0; --bucket) {
      const Bucket& all = of_[bucket];
      if (all.count == 0) continue;
      if (goes_on(taken + all.count - 1, sum + all.sum)) {
        taken += all.count;
        sum += all.sum;
        last = smallest_of(bucket);
        continue;
      }
      for (const float weight : sorted(bucket)) {
        if (!goes_on(taken, sum)) return last;
        last = weight;
        ++taken;
        sum += weight;
      }
    }
    return last;
  }

 private:
  static constexpr int kShift = 19;  // leaves sign, exponent and four bits of the fraction
  static constexpr int kBuckets = (127 << 4) + 1;

  struct Bucket {
    int count = 0;
    double sum = 0.0;
  };

  static int number(float weight) {
    uint32_t bits;
    std::memcpy(&bits, &weight, sizeof bits);
    return std::min<int>(bits >> kShift, kBuckets - 1);
  }

  // The bound that all weights of a bucket reach: enough for a threshold, as the next ones are below it.
  static float smallest_of(int bucket) { return as_float(static_cast<uint32_t>(bucket) << kShift); }

  std::vector<float> sorted(int bucket) const {
    std::vector<float> found;
    found.reserve(of_[bucket].count);
    std::copy_if(weights_, weights_ + count_, std::back_inserter(found), [&](float w) { return number(w) == bucket; });
    std::sort(found.begin(), found.end(), std::greater<>());
    return found;
  }

  const float* weights_;
  int count_;
  std::vector<Bucket> of_;
};

// Weights below it are cut away; those that tie with the last one kept are kept.
float threshold_of(const Cut& cut, const float* weights, int count) {
  float threshold = cut.min_p;
  const bool ranked = cut.top_k > 0 && cut.top_k < count;
  if (!ranked && !(cut.top_p < 1.0f)) return threshold;
  const Buckets buckets(weights, count);
  const int most = ranked ? cut.top_k : count;
  int taken;
  double total;
  float last = buckets.last_of([&](int before, double) { return before < most; }, taken, total);
  if (cut.top_p < 1.0f) {
    const double mass = static_cast<double>(cut.top_p) * total;
    last = buckets.last_of([&](int before, double sum) { return before < most && (before == 0 || sum < mass); }, taken,
                           total);
  }
  return std::max(threshold, last);
}

// exp((x - largest) / temperature).
void weigh(const float* x, int count, float largest, float temperature, float* weights) {
  for (int i = 0; i < count; i += kWidth) {
    const Vector apart = read_first(x + i, count - i, -kInfinity) - largest;
    write_first(weights + i, exponential_of_negative(apart / temperature), count - i);
  }
}

// The sum of what is kept of `count` weights, at most one chunk.
float sum_of_kept(const float* weights, int count, float threshold) {
  Vector sum{};
  for (int i = 0; i < count; i += kWidth) {
    const Vector weight = read_first(weights + i, count - i);
    sum += weight >= threshold ? weight : Vector{};
  }
  return sum_of(sum);
}

// The first kept weight at which those up to it sum up to more than `uniform` of all.
uint32_t pick(const float* weights, int count, float threshold, float uniform) {
  std::vector<float> sums;
  double total = 0.0;
  for (int i = 0; i < count; i += kChunk) {
    sums.push_back(sum_of_kept(weights + i, std::min(kChunk, count - i), threshold));
    total += sums.back();
  }
  const double target = uniform * total;
  double mass = 0.0;
  uint32_t last = 0;
  for (int first = 0; first < count; first += kChunk) {
    const float sum = sums[first / kChunk];
    const bool is_last = mass + sum >= total;
    if (sum == 0.0f || (mass + sum <= target && !is_last)) {
      mass += sum;
      continue;
    }
    for (int i = first; i < std::min(first + kChunk, count); ++i) {
      if (weights[i] < threshold || weights[i] == 0.0f) continue;
      last = static_cast<uint32_t>(i);
      mass += weights[i];
      if (mass > target) return last;
    }
  }
  return last;
}

uint32_t draw_row(const Cut& cut, const float* x, int count) {
  Vector top = spread(-kInfinity);
  for (int i = 0; i < count; i += kWidth) top = larger(read_first(x + i, count - i, -kInfinity), top);
  const float largest = largest_of(top);
  if (cut.temperature == 0.0f || !std::isfinite(largest)) {
    const float* found = std::find(x, x + count, largest);
    return found == x + count ? 0 : static_cast<uint32_t>(found - x);
  }
  thread_local std::vector<float> weights;
  weights.resize(count);
  weigh(x, count, largest, cut.temperature, weights.data());
  return pick(weights.data(), count, threshold_of(cut, weights.data(), count), cut.uniform);
}

// Inputs: logits, temperatures, top_k, top_p, min_p, uniform numbers.
class Draw : public CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    allocate(outputs[0]);
    const Strided<float> temperatures(inputs[1]), top_p(inputs[3]), min_p(inputs[4]), uniform(inputs[5]);
    const Strided<int32_t> top_k(inputs[2]);
    auto* out = outputs[0].data<uint32_t>();
    dispatch([=, rows = Rows(inputs[0])]() mutable {
      std::vector<float> storage[5];
      std::vector<int32_t> ranks;
      rows.bring_together(storage[0]);
      const float *t = temperatures.dense(storage[1]), *p = top_p.dense(storage[2]), *m = min_p.dense(storage[3]),
                  *u = uniform.dense(storage[4]);
      const int32_t* k = top_k.dense(ranks);
      parallel(static_cast<int>(rows.number()), [&](int row) {
        out[row] = draw_row({t[row], k[row], p[row], m[row], u[row]}, rows[row], rows.length());
      });
    });
  }

  const char* name() const override { return "Draw"; }
};

mx::array draw(const mx::array& logits, const mx::array& temperatures, const mx::array& top_k, const mx::array& top_p,
               const mx::array& min_p, const mx::array& uniform) {
  if (logits.ndim() != 2 || logits.dtype() != mx::float32 || logits.shape(1) == 0) {
    throw std::invalid_argument("Logits must be float32 (rows, vocab_size).");
  }
  const mx::Stream stream = cpu_stream();
  std::vector<mx::array> inputs{logits};
  for (const mx::array* each : {&temperatures, &top_k, &top_p, &min_p, &uniform}) {
    if (each->shape() != mx::Shape{logits.shape(0)}) throw std::invalid_argument("There must be one number per row.");
    inputs.push_back(mx::astype(*each, each == &top_k ? mx::int32 : mx::float32, stream));
  }
  return mx::array({logits.shape(0)}, mx::uint32, std::make_shared<Draw>(stream), std::move(inputs));
}

}  // namespace

void bind_draw(nanobind::module_& module) {
  using namespace nanobind::literals;
  module.def("draw", &draw, "logits"_a, "temperatures"_a, "top_k"_a, "top_p"_a, "min_p"_a, "uniform"_a,
             "A token per row from the softmax of logits / temperature (rows, vocab_size), cut by top_k (0 for all),\n"
             "then top_p, then min_p; all but logits are (rows,). The uniform number in [0, 1) chooses in the order of\n"
             "the vocabulary; temperature 0 takes the most likely token.");
}

}  // namespace bramley
