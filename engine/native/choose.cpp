// The figures that a sampler needs of logits, in one pass over the vocabulary: the best token, the softmax's
// normaliser, the best few.
#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "primitive.hpp"
#include "rows.hpp"
#include "threads.hpp"
#include "vector.hpp"

namespace bramley {
namespace {

constexpr int kChunk = 8192;  // logits that one thread reads at a time; results are joined in their order
constexpr int kMostCandidates = 64;

struct Candidate {
  float logit;
  uint32_t id;
};

// The best token and the sums of a part of a row. NaN is never best.
struct Summary {
  float largest = -kInfinity;
  uint32_t id = 0;
  float sum = 0.0f;  // of exp(logit - largest)
  std::vector<Candidate> best;
};

float largest_logit(const float* x, int count) {
  Vector top = spread(-kInfinity);
  for (int i = 0; i < count; i += kWidth) top = larger(read_first(x + i, count - i, -kInfinity), top);
  return largest_of(top);
}

float sum_of_exponentials(const float* x, int count, float largest) {
  Vector sum{};
  for (int i = 0; i < count; i += kWidth) {
    sum += exponential_of_negative(read_first(x + i, count - i, -kInfinity) - largest);
  }
  return sum_of(sum);
}

// Keeps the best `number`, best first, of equal ones the one that came first.
void consider(std::vector<Candidate>& best, int number, Candidate candidate) {
  if (static_cast<int>(best.size()) == number) {
    if (!(candidate.logit > best.back().logit)) return;
    best.pop_back();
  }
  const auto place = std::upper_bound(best.begin(), best.end(), candidate,
                                      [](const Candidate& a, const Candidate& b) { return a.logit > b.logit; });
  best.insert(place, candidate);
}

void find_best(const float* x, int count, uint32_t first, int number, std::vector<Candidate>& best) {
  best.reserve(number);
  for (int i = 0; i < count; i += kWidth) {
    const int present = std::min(kWidth, count - i);
    const bool full = static_cast<int>(best.size()) == number;
    if (full && !(largest_of(read_first(x + i, present, -kInfinity)) > best.back().logit)) continue;
    for (int lane = 0; lane < present; ++lane) consider(best, number, {x[i + lane], first + i + lane});
  }
}

Summary summarise(const float* x, int count, uint32_t first, int number) {
  Summary summary;
  summary.largest = largest_logit(x, count);
  const float* found = std::find(x, x + count, summary.largest);
  summary.id = first + static_cast<uint32_t>(found == x + count ? 0 : found - x);
  const bool finite = std::isfinite(summary.largest);
  summary.sum = finite ? sum_of_exponentials(x, count, summary.largest) : summary.largest > 0 ? kInfinity : 0.0f;
  if (number > 0) find_best(x, count, first, number, summary.best);
  return summary;
}

void join(Summary& whole, const Summary& next, int number) {
  if (next.largest == -kInfinity && whole.largest == -kInfinity) return;
  const float top = std::max(whole.largest, next.largest);
  const auto factor = [&](float largest) { return largest == top ? 1.0f : exponential_of_negative(largest - top); };
  whole.sum = whole.sum * factor(whole.largest) + next.sum * factor(next.largest);
  if (next.largest > whole.largest) whole.id = next.id;
  whole.largest = top;
  for (const auto& candidate : next.best) consider(whole.best, number, candidate);
}

// Input: logits. Outputs: best tokens and normalisers, then the ids and the logits of the best few where asked for.
class Choose : public CpuPrimitive {
 public:
  Choose(mx::Stream stream, int number) : CpuPrimitive(stream), number_(number) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    for (auto& output : outputs) allocate(output);
    Out out{outputs[0].data<uint32_t>(), outputs[1].data<float>(), nullptr, nullptr};
    if (number_ > 0) {
      out.ids = outputs[2].data<uint32_t>();
      out.logits = outputs[3].data<float>();
    }
    dispatch([rows = Rows(inputs[0]), out, number = number_]() mutable {
      std::vector<float> storage;
      rows.bring_together(storage);
      run(rows, number, out);
    });
  }

  const char* name() const override { return "Choose"; }

 private:
  struct Out {
    uint32_t* best;
    float* normalisers;
    uint32_t* ids;
    float* logits;
  };

  static void run(const Rows& rows, int number, const Out& out) {
    const int chunks = (rows.length() + kChunk - 1) / kChunk, count = static_cast<int>(rows.number());
    std::vector<Summary> parts(static_cast<size_t>(chunks) * count);
    parallel(static_cast<int>(parts.size()), [&](int part) {
      const int row = part / chunks, first = part % chunks * kChunk;
      parts[part] = summarise(rows[row] + first, std::min(kChunk, rows.length() - first), first, number);
    });
    for (int row = 0; row < count; ++row) {
      Summary* of_row = parts.data() + static_cast<size_t>(row) * chunks;
      Summary& whole = of_row[0];
      for (int chunk = 1; chunk < chunks; ++chunk) join(whole, of_row[chunk], number);
      out.best[row] = whole.id;
      out.normalisers[row] = whole.largest + std::log(whole.sum);
      for (int i = 0; i < number; ++i) {
        out.ids[static_cast<size_t>(row) * number + i] = whole.best[i].id;
        out.logits[static_cast<size_t>(row) * number + i] = whole.best[i].logit;
      }
    }
  }

  int number_;
};

std::vector<mx::array> choose(const mx::array& logits, int number) {
  if (logits.ndim() != 2 || logits.dtype() != mx::float32 || logits.shape(1) == 0) {
    throw std::invalid_argument("Logits must be float32 (rows, vocab_size).");
  }
  if (number < 0 || number > std::min(kMostCandidates, logits.shape(1))) {
    throw std::invalid_argument("There can be 64 best tokens at most.");
  }
  const int rows = logits.shape(0);
  std::vector<mx::Shape> shapes{{rows}, {rows}};
  std::vector<mx::Dtype> dtypes{mx::uint32, mx::float32};
  if (number > 0) {
    shapes.insert(shapes.end(), 2, mx::Shape{rows, number});
    dtypes.insert(dtypes.end(), {mx::uint32, mx::float32});
  }
  return mx::array::make_arrays(std::move(shapes), dtypes, std::make_shared<Choose>(cpu_stream(), number), {logits});
}

}  // namespace

void bind_choose(nanobind::module_& module) {
  using namespace nanobind::literals;
  module.def("choose", &choose, "logits"_a, "number"_a = 0,
             "The best token (rows,) and the log of the sum of exponentials (rows,) of logits (rows, vocab_size);\n"
             "with a number, also the ids and the logits of the best ones, (rows, number), best first.");
}

}  // namespace bramley
