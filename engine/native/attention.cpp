// See attention.hpp. A unit of work is one row, one key head and some queries; all queries of the key head's group
// share the keys that are brought into place for them.
#include "attention.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "attention_tiles.hpp"
#include "threads.hpp"
#include "vector.hpp"

namespace bramley {
namespace {

constexpr int kSegment = 256;  // keys after which a new softmax begins; threads may share a row at these places
constexpr int kQueriesPerUnit = 192;
constexpr float kNothing = -1e30f;  // the largest score where there is none yet
constexpr int64_t kMultiplicationsPerUnit = 1 << 14;

int round_up(int number, int to) { return (number + to - 1) / to * to; }

// Softmax so far of some queries: largest score, sum of exponentials, and the values' sum weighted with them.
class Progress {
 public:
  void reset(int queries, int width) {
    width_ = width;
    largest_.assign(queries, kNothing);
    sums_.assign(queries, 0.0f);
    totals_.assign(static_cast<size_t>(queries) * width, 0.0f);
  }

  float& largest(int query) { return largest_[query]; }
  float& sum(int query) { return sums_[query]; }
  float* total(int query) { return totals_.data() + static_cast<size_t>(query) * width_; }
  int queries() const { return static_cast<int>(largest_.size()); }

  // Goes on with what was seen after it.
  void append(Progress& next) {
    for (int query = 0; query < queries(); ++query) {
      const float top = std::max(largest_[query], next.largest_[query]);
      const float ours = exponential_of_negative(largest_[query] - top);
      const float theirs = exponential_of_negative(next.largest_[query] - top);
      largest_[query] = top;
      sums_[query] = sums_[query] * ours + next.sums_[query] * theirs;
      float *total = this->total(query), *other = next.total(query);
      for (int i = 0; i < width_; i += kWidth) {
        write_vector(total + i, read_vector(total + i) * ours + read_vector(other + i) * theirs);
      }
    }
  }

 private:
  int width_ = 0;
  std::vector<float> largest_, sums_, totals_;
};

// Which queries of which row and key head.
struct Unit {
  int row, kv_head, begin, end;
};

// A thread's own memory, kept between operations.
struct Scratch {
  std::vector<float> queries, keys, values, row;
  Progress whole, segment;
};

Scratch& scratch() {
  thread_local Scratch own;
  return own;
}

// Keys of one block as the products want them, and values with whole vectors per key.
struct BlockOfKeys {
  int start, present;  // places
  const float* keys;
  const float* values;
  int64_t value_stride;
  Upcoming own_values, next_keys;  // where they are not read and rewritten first
};

class UnitOfAttention {
 public:
  UnitOfAttention(const Attention& attention, const Unit& unit)
      : a_(attention),
        unit_(unit),
        own_(scratch()),
        group_(attention.queries.heads() / attention.num_kv_heads),
        queries_((unit.end - unit.begin) * group_),
        width_(round_up(attention.values.width(), kWidth)),
        slot_(std::clamp(attention.slots[unit.row], 0, attention.num_slots - 1)),
        length_(std::clamp(attention.lengths[unit.row], 0, attention.places)) {
    read_queries();
  }

  int queries() const { return queries_; }
  int width() const { return width_; }

  // Places that some query of the unit sees.
  int first_place() const { return start(0); }
  int last_place() const { return end(queries_ - 1); }

  void attend_segment(int segment, Progress& progress) {
    const int from = std::max(segment * kSegment, first_place() / kBlock * kBlock);
    const int to = std::min((segment + 1) * kSegment, last_place());
    for (int place = from; place < to; place += kBlock) {
      const BlockOfKeys block = bring(place, std::min(kBlock, last_place() - place));
      for (int query = 0; query < queries_; query += kTile) {
        attend_tile(block, query, std::min(kTile, queries_ - query), progress);
      }
    }
  }

  void write(Progress& progress) const {
    for (int query = 0; query < queries_; ++query) {
      float sum = progress.sum(query), factor = 1.0f;
      if (a_.sinks != nullptr) {
        const float sink = a_.sinks[head(query)], top = std::max(progress.largest(query), sink);
        factor = exponential_of_negative(progress.largest(query) - top);
        sum = sum * factor + exponential_of_negative(sink - top);
      }
      factor = sum > 0 ? factor / sum : 0.0f;
      const int values = a_.values.width();
      const int64_t position = static_cast<int64_t>(unit_.row) * a_.queries.length() + unit_.begin + query / group_;
      float* out = a_.out + (position * a_.queries.heads() + head(query)) * values;
      for (int i = 0; i < values; i += kWidth) {
        write_first(out + i, read_vector(progress.total(query) + i) * factor, values - i);
      }
    }
  }

 private:
  // Queries are numbered by position first, then by head.
  int position(int query) const { return unit_.begin + query / group_; }
  int head(int query) const { return unit_.kv_head * group_ + query % group_; }
  int end(int query) const {
    return a_.causal ? std::max(length_ - (a_.queries.length() - 1 - position(query)), 0) : length_;
  }
  int start(int query) const { return a_.window > 0 ? std::max(end(query) - a_.window, 0) : 0; }

  void read_queries() {
    const int dims = a_.queries.width();
    own_.queries.resize(static_cast<size_t>(queries_) * dims);
    for (int query = 0; query < queries_; ++query) {
      const float* from = a_.queries.at(unit_.row, head(query), position(query));
      float* to = own_.queries.data() + static_cast<size_t>(query) * dims;
      if (a_.tables != nullptr) {
        const int64_t at = static_cast<int64_t>(unit_.row) * a_.queries.length() + position(query);
        rotate_vector(a_.rotation, a_.tables + at * a_.rotation.table_size(), from, dims, to);
        from = to;
      }
      for (int i = 0; i < dims; ++i) to[i] = from[i] * a_.scale;
    }
  }

  BlockOfKeys bring(int place, int present) {
    own_.keys.resize(static_cast<size_t>(a_.keys.width()) * kBlock);
    for (int key = 0; key < present; key += kWidth) bring_keys(place, key, present);
    if (a_.values.plain() && a_.values.width() == width_) {
      const float* values = a_.values.plain_at(slot_, unit_.kv_head, place);
      const int64_t stride = a_.values.plain_stride();
      BlockOfKeys block{place, present, own_.keys.data(), values, stride, {values, stride, width_}, {}};
      if (a_.keys.plain()) {
        const float* next = a_.keys.plain_at(slot_, unit_.kv_head, place + kBlock);
        block.next_keys = {next, a_.keys.plain_stride(), a_.keys.width()};
      }
      return block;
    }
    own_.values.assign(static_cast<size_t>(kBlock) * width_, 0.0f);
    for (int key = 0; key < present; ++key) {
      a_.values.read(slot_, unit_.kv_head, place + key, own_.values.data() + static_cast<size_t>(key) * width_);
    }
    return {place, present, own_.keys.data(), own_.values.data(), width_, {}, {}};
  }

  // Transposes kWidth keys. Past the last one it is repeated; nobody sees those.
  void bring_keys(int place, int first, int present) {
    const int dims = a_.keys.width();
    const float* from[kWidth];
    if (!a_.keys.plain()) own_.row.resize(static_cast<size_t>(kWidth) * dims);
    for (int i = 0; i < kWidth; ++i) {
      const int key = place + std::min(first + i, present - 1);
      if (a_.keys.plain()) {
        from[i] = a_.keys.plain_at(slot_, unit_.kv_head, key);
      } else {
        float* row = own_.row.data() + static_cast<size_t>(i) * dims;
        a_.keys.read(slot_, unit_.kv_head, key, row);
        from[i] = row;
      }
    }
    float* to = own_.keys.data() + static_cast<size_t>(first / kTileKeys) * dims * kTileKeys + first % kTileKeys;
    for (int dim = 0; dim < dims; dim += kWidth) {
      const int dims_left = std::min(kWidth, dims - dim);
      Vector square[kWidth];
      if (dims_left == kWidth) {
#pragma GCC unroll 16
        for (int i = 0; i < kWidth; ++i) square[i] = read_vector(from[i] + dim);
        transpose(square);
#pragma GCC unroll 16
        for (int i = 0; i < kWidth; ++i) write_vector(to + static_cast<size_t>(dim + i) * kTileKeys, square[i]);
      } else {
        for (int d = 0; d < dims_left; ++d) {
          for (int i = 0; i < kWidth; ++i) to[static_cast<size_t>(dim + d) * kTileKeys + i] = from[i][dim + d];
        }
      }
    }
  }

  void attend_tile(const BlockOfKeys& block, int first, int count, Progress& progress) {
    // Later queries see later places.
    const int begin = std::max(start(first) - block.start, 0);
    const int stop = std::min(end(first + count - 1) - block.start, block.present);
    if (begin >= stop) return;
    float scores[kTile * kBlock], decay[kTile];
    for (int tile = begin / kTileKeys; tile * kTileKeys < stop; ++tile) {
      const int dims = a_.keys.width();
      multiply_keys(count, own_.queries.data() + static_cast<size_t>(first) * dims, dims,
                    block.keys + static_cast<size_t>(tile) * dims * kTileKeys, scores + tile * kTileKeys,
                    first == 0 && tile == begin / kTileKeys ? block.own_values : Upcoming{});
    }
    for (int i = 0; i < count; ++i) {
      take_softmax(block, first + i, scores + i * kBlock, begin, stop, progress, decay[i]);
    }
    add_values(count, scores, decay, block.values, block.value_stride, begin, stop, progress.total(first), width_,
               first == 0 ? block.next_keys : Upcoming{});
  }

  // Scores of the keys [begin, stop) of the block become weights, those which this query does not see 0.
  void take_softmax(const BlockOfKeys& block, int query, float* scores, int begin, int stop, Progress& progress,
                    float& decay) {
    const int from = begin / kWidth * kWidth;
    const int seen_from = start(query) - block.start, seen_to = end(query) - block.start;
    const bool whole = seen_from <= from && seen_to >= round_up(stop, kWidth);
    if (a_.softcap > 0) cap(scores + from, stop - from);
    if (a_.mask.addends != nullptr || a_.mask.seen != nullptr) apply_mask(block, query, scores, from, stop);
    Vector top = spread(kNothing);
    for (int i = from; i < stop; i += kWidth) {
      Vector x = read_vector(scores + i);
      if (!whole) {
        const Integers place = lane_numbers() + i;
        x = (place >= seen_from) & (place < seen_to) ? x : spread(-kInfinity);
        write_vector(scores + i, x);
      }
      top = larger(x, top);
    }
    const float before = progress.largest(query), largest = std::max(before, largest_of(top));
    Vector sum{};
    for (int i = from; i < stop; i += kWidth) {
      const Vector weight = exponential_of_negative(read_vector(scores + i) - largest);
      write_vector(scores + i, weight);
      sum += weight;
    }
    decay = before == largest ? 1.0f : exponential_of_negative(before - largest);
    progress.largest(query) = largest;
    progress.sum(query) = progress.sum(query) * decay + sum_of(sum);
  }

  void cap(float* scores, int count) const {
    for (int i = 0; i < count; i += kWidth) {
      write_vector(scores + i, hyperbolic_tangent(read_vector(scores + i) / a_.softcap) * a_.softcap);
    }
  }

  void apply_mask(const BlockOfKeys& block, int query, float* scores, int from, int stop) const {
    const ScoreMask& mask = a_.mask;
    const int64_t place = unit_.row * mask.row_stride + head(query) * mask.head_stride +
                          position(query) * mask.query_stride + block.start * mask.key_stride;
    for (int i = from; i < stop; ++i) {
      const int64_t at = place + i * mask.key_stride;
      if (mask.addends != nullptr) scores[i] += mask.addends[at];
      else if (!mask.seen[at]) scores[i] = -kInfinity;
    }
  }

  const Attention& a_;
  const Unit unit_;
  Scratch& own_;
  const int group_, queries_, width_, slot_, length_;
};

int segments_of(int length) { return (length + kSegment - 1) / kSegment; }

void attend_unit(const Attention& a, const Unit& unit) {
  UnitOfAttention work(a, unit);
  Progress &whole = scratch().whole, &segment = scratch().segment;
  whole.reset(work.queries(), work.width());
  for (int s = work.first_place() / kSegment; s < segments_of(work.last_place()); ++s) {
    segment.reset(work.queries(), work.width());
    work.attend_segment(s, segment);
    whole.append(segment);
  }
  work.write(whole);
}

// The same with the segments computed by several threads.
void attend_units_by_segments(const Attention& a, const std::vector<Unit>& units) {
  struct Piece {
    int unit, segment;
    Progress progress;
  };
  std::vector<Piece> pieces;
  for (size_t i = 0; i < units.size(); ++i) {
    const int length = std::clamp(a.lengths[units[i].row], 0, a.places);
    const int first = a.window > 0 ? std::max(length - a.queries.length() - a.window, 0) / kSegment : 0;
    for (int s = first; s < std::max(segments_of(length), first + 1); ++s) {
      pieces.push_back({static_cast<int>(i), s, {}});
    }
  }
  parallel(static_cast<int>(pieces.size()), [&](int part) {
    Piece& piece = pieces[part];
    UnitOfAttention work(a, units[piece.unit]);
    piece.progress.reset(work.queries(), work.width());
    work.attend_segment(piece.segment, piece.progress);
  });
  for (size_t first = 0; first < pieces.size();) {
    UnitOfAttention work(a, units[pieces[first].unit]);
    Progress& whole = scratch().whole;
    whole.reset(work.queries(), work.width());
    size_t next = first;
    for (; next < pieces.size() && pieces[next].unit == pieces[first].unit; ++next) whole.append(pieces[next].progress);
    work.write(whole);
    first = next;
  }
}

}  // namespace

void attend(const Attention& a) {
  const int group = a.queries.heads() / a.num_kv_heads, length = a.queries.length();
  const int step = std::max(1, kQueriesPerUnit / group);
  std::vector<Unit> units;
  int64_t work = 0;
  // The last queries see most: they come first.
  for (int end = length; end > 0; end -= step) {
    for (int row = 0; row < a.queries.rows(); ++row) {
      for (int kv_head = 0; kv_head < a.num_kv_heads; ++kv_head) {
        units.push_back({row, kv_head, std::max(end - step, 0), end});
        work += static_cast<int64_t>(std::clamp(a.lengths[row], 0, a.places)) * a.queries.width() * group *
                std::min(end, step);
      }
    }
  }
  if (threads() == 1 || work < 2 * kMultiplicationsPerUnit) {
    for (const auto& unit : units) attend_unit(a, unit);
  } else if (units.size() < 4 * static_cast<size_t>(threads())) {
    attend_units_by_segments(a, units);
  } else {
    parallel(static_cast<int>(units.size()), [&](int part) { attend_unit(a, units[part]); });
  }
}

}  // namespace bramley
