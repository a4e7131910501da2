// How a product is cut into parts for the threads and the caches; the arithmetic is the caller's.
//
// An Operand describes weights in panels of sixteen rows and multiplies blocks of activations with them:
//   Operand::Rows                 activations as its kernels read them; Rows(operand, number), read(row, x), clear(row)
//   columns(), panel_bytes()
//   multiply(block, target, begin, end, size)   rows of one block with the panels [begin, end); `size` rows are computed
// A result depends on its own row and weights only, never on what is computed beside it: all sums have one order.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "activation.hpp"
#include "lanes.hpp"
#include "panels.hpp"
#include "threads.hpp"

namespace bramley {

// One product: panels of `rows` weight rows; out[i * rows + row] for activation row i.
// bias: (rows,), residual: as out; both are added where they are there
struct Target {
  const uint8_t* panels;
  int rows;
  float* out;
  const float* bias = nullptr;
  const float* residual = nullptr;
};

// The operations before and after the products of one call, while the rows are at hand.
// norm: (columns,) factors of a root-mean-square norm of x, with its eps; may be null
// activate: of two targets, the first one's results become activate(first) * second; may be null
struct Surroundings {
  const float* norm = nullptr;
  float eps = 0.0f;
  Activate activate = nullptr;
};

// A few rows of activations, from `first` on, and where their results go.
template <class Rows>
struct Block {
  const Rows& x;
  int first;
  int present;
  float* outs[kMaxBlock];
};

// Multiplications that are worth handing to another thread, and parts per thread when there is more than enough.
constexpr int64_t kGrain = 1 << 16;
constexpr int kPartsPerThread = 4;
// Activations of a chunk of rows stay in a core's second-level cache while all panels pass by.
constexpr int64_t kChunkBytes = 384 << 10;
// Far enough ahead for memory to answer, close enough to stay in the first-level cache.
constexpr int kPrefetchBytes = 2048;

// The sizes of block that kernels exist for.
constexpr int kBlocks[] = {1, 2, 3, 4, 6, 8, 10, 12};

// Rows are cut into equal blocks, as few as possible.
inline int block_size(int rows) {
  const int blocks = (rows + kMaxBlock - 1) / kMaxBlock;
  const int needed = (rows + blocks - 1) / blocks;
  return *std::find_if(std::begin(kBlocks), std::end(kBlocks), [&](int size) { return size >= needed; });
}

inline int parts_for(int64_t multiplications, int most) {
  const int64_t worthwhile = std::min<int64_t>(multiplications / kGrain + 1, kPartsPerThread * threads());
  return threads() == 1 ? 1 : static_cast<int>(std::min<int64_t>(worthwhile, most));
}

inline int cut(int number, int part, int parts) { return static_cast<int>(static_cast<int64_t>(number) * part / parts); }

// x / sqrt(mean(x^2) + eps) * norm, summed in one fixed order.
inline void normalise(const float* x, const float* norm, float eps, int columns, float* out) {
  Floats squares = zero_floats();
  int column = 0;
  for (; column + kLanes <= columns; column += kLanes) {
    squares = multiply_add(load(x + column), load(x + column), squares);
  }
  float lanes[kLanes], sum = 0.0f;
  store(lanes, squares);
  for (float lane : lanes) sum += lane;
  for (int rest = column; rest < columns; ++rest) sum += x[rest] * x[rest];
  const float scale = 1.0f / std::sqrt(sum / static_cast<float>(columns) + eps);
  for (column = 0; column + kLanes <= columns; column += kLanes) {
    store(out + column, multiply(multiply(load(x + column), broadcast(scale)), load(norm + column)));
  }
  for (; column < columns; ++column) out[column] = x[column] * scale * norm[column];
}

// Reads rows of x into the kernels' form, the last ones being zeros from `present` on.
template <class Rows>
void read_rows(Rows& rows, const float* x, int present, int columns, const Surroundings& around = {}) {
  const int parts = parts_for(static_cast<int64_t>(rows.number()) * columns * 8, rows.number());
  parallel(parts, [&](int part) {
    std::vector<float> normal(around.norm == nullptr ? 0 : columns);
    for (int row = cut(rows.number(), part, parts); row < cut(rows.number(), part + 1, parts); ++row) {
      const float* one = x + static_cast<size_t>(row) * columns;
      if (row >= present) {
        rows.clear(row);
      } else if (around.norm == nullptr) {
        rows.read(row, one);
      } else {
        normalise(one, around.norm, around.eps, columns, normal.data());
        rows.read(row, normal.data());
      }
    }
  });
}

// All rows against some panels of one target.
template <class Operand>
void multiply_range(const Operand& operand, const typename Operand::Rows& x, int present, int size, const Target& target,
                    int begin, int end) {
  const int chunk = std::max(1, static_cast<int>(kChunkBytes / (x.bytes_per_column() * operand.columns())) / size) * size;
  // While there is one block only, nothing of it has to be read again: its panels are taken in one go.
  const int stride = present <= size ? end - begin : 1;
  for (int first = 0; first < present; first += chunk) {
    for (int panel = begin; panel < end; panel += stride) {
      for (int row = first; row < std::min(first + chunk, present); row += size) {
        Block<typename Operand::Rows> block{x, row, std::min(size, present - row), {}};
        for (int i = 0; i < block.present; ++i) {
          block.outs[i] = target.out + static_cast<size_t>(row + i) * target.rows;
        }
        operand.multiply(block, target, panel, panel + stride, size);
      }
    }
  }
}

// The results of two targets in some panels, joined.
inline void activate_range(const Surroundings& around, const Target& gate, const Target& up, int rows, int begin,
                           int end) {
  for (int row = 0; row < rows; ++row) {
    const int64_t start = static_cast<int64_t>(row) * gate.rows;
    around.activate(gate.out, up.out, gate.out, start + begin * kLanes, start + std::min(end * kLanes, gate.rows));
  }
}

// The panels [begin, end) of each of two targets, and their joint result.
template <class Operand>
void multiply_gated(const Operand& operand, const typename Operand::Rows& x, int present, int size,
                    const Surroundings& around, const std::vector<Target>& targets) {
  const int panels = panels_of(targets[0].rows);
  const int parts = parts_for(int64_t{2} * panels * kLanes * operand.columns() * present, panels);
  parallel(parts, [&](int part) {
    const int begin = cut(panels, part, parts), end = cut(panels, part + 1, parts);
    for (const auto& target : targets) multiply_range(operand, x, present, size, target, begin, end);
    activate_range(around, targets[0], targets[1], present, begin, end);
  });
}

template <class Operand>
void multiply_each(const Operand& operand, const typename Operand::Rows& x, int present, int size,
                   const std::vector<Target>& targets) {
  int panels = 0;
  for (const auto& target : targets) panels += panels_of(target.rows);
  const int parts = parts_for(static_cast<int64_t>(panels) * kLanes * operand.columns() * present, panels);
  parallel(parts, [&](int part) {
    int start = 0;  // of this target among all panels
    for (const auto& target : targets) {
      const int count = panels_of(target.rows);
      const int begin = std::max(cut(panels, part, parts) - start, 0);
      const int end = std::min(cut(panels, part + 1, parts) - start, count);
      if (begin < end) multiply_range(operand, x, present, size, target, begin, end);
      start += count;
    }
  });
}

// out = x @ weight.T + bias + residual for every target. x: (rows, columns), dense.
template <class Operand>
void multiply_targets(const Operand& operand, const float* x, int rows, const Surroundings& around,
                      const std::vector<Target>& targets) {
  const int size = block_size(rows);
  typename Operand::Rows read(operand, (rows + size - 1) / size * size);
  read_rows(read, x, rows, operand.columns(), around);
  if (around.activate == nullptr) {
    multiply_each(operand, read, rows, size, targets);
  } else {
    multiply_gated(operand, read, rows, size, around, targets);
  }
}

// Choices of weights, in an order in which each weight is read once.
struct Choices {
  std::vector<uint32_t> weights;  // per choice
  std::vector<int> order;
  std::vector<int> starts;  // runs of at most kMaxBlock choices of one weight, and the end

  Choices(const uint32_t* chosen, int count, int stacked) : weights(chosen, chosen + count), order(count) {
    for (auto& weight : weights) weight = std::min<uint32_t>(weight, stacked - 1);
    for (int i = 0; i < count; ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return weights[a] < weights[b]; });
    for (int i = 0; i < count; ++i) {
      const bool same = i > 0 && weights[order[i]] == weights[order[i - 1]];
      if (!same || i - starts.back() == kMaxBlock) starts.push_back(i);
    }
    starts.push_back(count);
  }

  int runs() const { return static_cast<int>(starts.size()) - 1; }
};

// out[i] = x[i * sources / count] @ stack[chosen[i]].T for `count` choices, of `stacked` weights of `rows` rows each.
template <class Operand>
void multiply_chosen(const Operand& operand, const float* x, int sources, const uint8_t* stack, int stacked, int rows,
                     const uint32_t* chosen, int count, float* out) {
  typename Operand::Rows read(operand, sources);
  read_rows(read, x, sources, operand.columns());
  const Choices choices(chosen, count, stacked);
  const int panels = panels_of(rows), runs = choices.runs();
  const int64_t work = static_cast<int64_t>(count) * panels * kLanes * operand.columns();
  const int slices = std::clamp(parts_for(work, runs * panels) / runs, 1, panels);
  parallel(runs * slices, [&](int part) {
    const int* run = choices.order.data() + choices.starts[part / slices];
    const int present = choices.starts[part / slices + 1] - choices.starts[part / slices], size = block_size(present);
    typename Operand::Rows own(operand, size);
    Block<typename Operand::Rows> block{own, 0, present, {}};
    for (int i = 0; i < size; ++i) own.copy_row(i, read, cut(sources, run[std::min(i, present - 1)], count));
    for (int i = 0; i < present; ++i) block.outs[i] = out + static_cast<size_t>(run[i]) * rows;
    const Target target{stack + choices.weights[run[0]] * (panels * operand.panel_bytes()), rows, nullptr};
    operand.multiply(block, target, cut(panels, part % slices, slices), cut(panels, part % slices + 1, slices), size);
  });
}

// Writes the results of one panel for one row of a block.
template <class Rows>
BRAMLEY_INLINE void write_lanes(const Block<Rows>& block, int row, Floats results, const Target& target, int panel) {
  float* out = block.outs[row] + panel * kLanes;
  const float* bias = target.bias == nullptr ? nullptr : target.bias + panel * kLanes;
  const float* residual = target.residual == nullptr ? nullptr : target.residual + (out - target.out);
  const int lanes = std::min(kLanes, target.rows - panel * kLanes);
  if (lanes == kLanes) {
    if (bias != nullptr) results = add(results, load(bias));
    store(out, residual == nullptr ? results : add(load(residual), results));
    return;
  }
  float all[kLanes];
  store(all, results);
  for (int lane = 0; lane < lanes; ++lane) {
    const float y = bias == nullptr ? all[lane] : all[lane] + bias[lane];
    out[lane] = residual == nullptr ? y : residual[lane] + y;
  }
}

}  // namespace bramley
