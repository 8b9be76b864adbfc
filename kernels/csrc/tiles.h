// What the forward and the backward of the scan share: its inputs, tiles of them staged as float, and the plan of tasks.
//
// Memory order and dtype matter only while a tile is staged; the recurrences themselves run on float buffers
// [step][channel] of one block: W neighbouring channels of one group, side by side in a vector.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <new>
#include <tuple>
#include <utility>

#include "vector_math.h"

namespace mvc {

constexpr int64_t kTile = 32;               // steps staged at a time
constexpr int64_t kStrip = 16;               // blocks staged at a time: rows of a few cache lines
constexpr int64_t kMinSegment = 8 * kTile;  // steps for which a task of its own pays

// Floats from a cache line's start on, uninitialised unless filled.
class Buffer {
 public:
  explicit Buffer(int64_t size)
      : data_(static_cast<float*>(::operator new(size * sizeof(float), kAlignment))), size_(size) {}
  Buffer(int64_t size, float value) : Buffer(size) { fill(value); }
  operator float*() const { return data_.get(); }
  void fill(float value) { std::fill_n(data_.get(), size_, value); }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(float* data) const { ::operator delete(data, kAlignment); }
  };
  std::unique_ptr<float, Free> data_;
  int64_t size_;
};

// (batch, length, dim) as the scan runs over it: `step` is negative where it starts at the end.
template <typename T>
struct Sequence {
  T* data = nullptr;
  int64_t batch = 0, step = 0, channel = 0;
  T* at(int64_t b, int64_t t, int64_t c) const { return data + b * batch + t * step + c * channel; }
};

// B or C: (batch, length, groups, N), or constant (dim, N), whose `group` stride then counts channels.
template <typename T>
struct Weights {
  T* data = nullptr;
  int64_t batch = 0, step = 0, group = 0, state = 0;
  bool constant = false;
};

struct Sizes {
  int64_t batch, length, dim, states, groups;
  int64_t width() const { return dim / groups; }
  int64_t blocks_per_group() const { return at::divup(width(), W); }
  int64_t blocks() const { return groups * blocks_per_group(); }
  int64_t block_states() const { return states * W; }
};

// Channels [first, first + channels) of one group; the last block of a group may be partial.
struct Block {
  int64_t group, first, channels;
  Block(const Sizes& sizes, int64_t index)
      : group(index / sizes.blocks_per_group()),
        first(group * sizes.width() + index % sizes.blocks_per_group() * W),
        channels(std::min(W, (group + 1) * sizes.width() - first)) {}
};

template <typename T>
struct Inputs {
  Sizes sizes;
  Sequence<const T> u, delta, z;  // z.data may be null
  Weights<const T> B, C;
  Sequence<const bool> reset;  // (batch, length); data may be null
  const float* A;              // (dim, N), contiguous
  const float* D;              // (dim), or null
  const float* delta_bias;     // (dim), or null
  const float* initial_state;  // (batch, dim, N), contiguous, or null
  bool softplus, reverse;

  // Where the step that runs as number t stands in the sequence.
  int64_t position(int64_t t) const { return reverse ? sizes.length - 1 - t : t; }
  bool resets(int64_t b, int64_t t) const { return reset.data != nullptr && *reset.at(b, t, 0); }
  // The first of the steps [from, to) that resets, or `to`.
  int64_t first_reset(int64_t b, int64_t from, int64_t to) const {
    while (from < to && !resets(b, from)) ++from;
    return from;
  }
};

template <typename T>
inline Vec load_floats(const T* from) {
  if constexpr (std::is_same_v<T, float>) {
    return Vec::loadu(from);
  } else {
    Vec values;
    at::vec::load_to_float(from, values);
    return values;
  }
}

template <typename T>
inline void store_floats(Vec values, T* to) {
  if constexpr (std::is_same_v<T, float>)
    values.store(to);
  else
    at::vec::convert_from_float<T>(values, values).store(to, W);
}

// Channels apart, steps side by side, up or down.
template <typename T>
void stage_transposed(const T* source, const Sequence<const T>& from, int64_t channels, int64_t steps, float* to) {
  alignas(64) float rows[W * kTile] = {};
  // Up, memory's place m in a row is step m; down, the row ends at the buffer's end, and m is step kTile - 1 - m.
  const bool down = from.step < 0;
  const int64_t first = down ? kTile - steps : 0;
  for (int64_t c = 0; c < channels; ++c) {
    const T* row = source + c * from.channel - (down ? steps - 1 : 0);
    int64_t s = 0;
    for (; s + W <= steps; s += W) load_floats(row + s).store(&rows[c * kTile + first + s]);
    for (; s < steps; ++s) rows[c * kTile + first + s] = static_cast<float>(row[s]);
  }
  for (int64_t m = first / W * W; m < first + steps; m += W)
    at::vec::transpose_mxn<float, W, W>(&rows[m], kTile, to + (down ? kTile - 1 - m : m) * W, down ? -W : W);
}

// Where a strip's blocks lie: `full` ones side by side, or any.
struct Strip {
  int64_t b, t, steps, first_block, blocks;
  bool full;
};

// A strip of u, delta, z or ∂y as floats: in place where it can be read there, else staged, [block][step][channel].
struct Rows {
  const float* data = nullptr;
  int64_t block = 0, step = 0;
  Vec at(int64_t j, int64_t s) const { return Vec::loadu(data + j * block + s * step); }
};

// Reads a strip, by way of `staged` where need be, with zeros in the lanes beyond a block's channels.
template <typename T>
Rows read_rows(const Sequence<const T>& from, const Sizes& sizes, const Strip& strip, float* staged) {
  const T* source = from.at(strip.b, strip.t, Block(sizes, strip.first_block).first);
  const Rows rows{staged, kTile * W, W};
  if (strip.full && from.channel == 1) {
    if constexpr (std::is_same_v<T, float>) return {source, W, from.step};
    for (int64_t s = 0; s < strip.steps; ++s)
      for (int64_t j = 0; j < strip.blocks; ++j)
        load_floats(source + s * from.step + j * W).store(staged + (j * kTile + s) * W);
    return rows;
  }
  for (int64_t j = 0; j < strip.blocks; ++j, staged += kTile * W) {
    const Block block(sizes, strip.first_block + j);
    const T* source = from.at(strip.b, strip.t, block.first);
    if (from.step == 1 || from.step == -1) {
      stage_transposed(source, from, block.channels, strip.steps, staged);
      continue;
    }
    std::fill_n(staged, strip.steps * W, 0.f);
    for (int64_t s = 0; s < strip.steps; ++s)
      for (int64_t c = 0; c < block.channels; ++c)
        staged[s * W + c] = static_cast<float>(source[s * from.step + c * from.channel]);
  }
  return rows;
}

// Where the lines of a block's steps lie, to be brought into the cache one by one while something else is computed: its rows
// may lie pages apart, which the processor does not foresee, and all at once they would wait for each other.
struct Ahead {
  const char* data;
  int64_t row, jump;  // bytes to the next row; and after W rows, where rows are channels, to the lines beside them

  template <typename T>
  static Ahead of(const Sequence<T>& tensor, const Sizes& sizes, const Strip& strip, int64_t j) {
    const int64_t channel = Block(sizes, strip.first_block + j).first, size = sizeof(T);
    auto at = [&](int64_t t) { return reinterpret_cast<const char*>(tensor.at(strip.b, t, channel)); };
    if (tensor.channel == 1) return {at(strip.t), tensor.step * size, 0};
    const int64_t row = tensor.channel * size;
    return {at(tensor.step < 0 ? strip.t + strip.steps - 1 : strip.t), row, 64 - W * row};
  }
  C10_ALWAYS_INLINE void fetch(int64_t s) const { __builtin_prefetch(data + s * row + s / W * jump, 0, 2); }
};

// Writes `values(j, s)` for every block and step of a strip to a tensor whose channels are side by side.
template <typename T, typename Values>
void write_rows(const Sequence<T>& to, const Sizes& sizes, const Strip& strip, Values values) {
  T* target = to.at(strip.b, strip.t, Block(sizes, strip.first_block).first);
  if (strip.full) {
    for (int64_t s = 0; s < strip.steps; ++s, target += to.step)
      for (int64_t j = 0; j < strip.blocks; ++j) store_floats(values(j, s), target + j * W);
    return;
  }
  for (int64_t j = 0; j < strip.blocks; ++j) {
    const Block block(sizes, strip.first_block + j);
    for (int64_t s = 0; s < strip.steps; ++s) {
      float lanes[W];
      values(j, s).store(lanes);
      for (int64_t c = 0; c < block.channels; ++c) *to.at(strip.b, strip.t + s, block.first + c) = static_cast<T>(lanes[c]);
    }
  }
}

// B or C of a block as floats: [step][state] with `step` floats from step to step, or [state][channel] where constant.
struct TileWeights {
  const float* data;
  int64_t step;
};

// Reads B or C of one group, by way of `staged` [step][state] where it cannot be read in place.
template <typename T>
TileWeights read_weights(const Weights<const T>& from, int64_t b, int64_t t, int64_t group, int64_t steps, int64_t states,
                         float* staged) {
  const T* source = from.data + b * from.batch + t * from.step + group * from.group;
  if constexpr (std::is_same_v<T, float>)
    if (from.state == 1) return {source, from.step};
  for (int64_t s = 0; s < steps; ++s)
    for (int64_t n = 0; n < states; ++n)
      staged[s * states + n] = static_cast<float>(source[s * from.step + n * from.state]);
  return {staged, states};
}

// Reads (dim, N) as [state][channel] of a block.
template <typename T>
void stage_states(const T* from, int64_t channel, int64_t state, const Block& block, int64_t states, float* to) {
  if (block.channels < W) std::fill(to, to + states * W, 0.f);
  for (int64_t c = 0; c < block.channels; ++c)
    for (int64_t n = 0; n < states; ++n)
      to[n * W + c] = static_cast<float>(from[(block.first + c) * channel + n * state]);
}

inline void unstage_states(const float* from, const Block& block, int64_t states, float* to) {
  for (int64_t c = 0; c < block.channels; ++c)
    for (int64_t n = 0; n < states; ++n) to[(block.first + c) * states + n] = from[n * W + c];
}

// What belongs to channels and not to steps, for all blocks.
struct Parameters {
  Buffer A;         // A / ln 2, [block][state][channel], so that decays are powers of two
  Buffer B, C;      // the same of those that are constant
  Buffer D, delta_bias;  // [block][channel], zeros where there is none

  template <typename T>
  explicit Parameters(const Inputs<T>& in)
      : A(in.sizes.blocks() * in.sizes.block_states()),
        B(in.B.constant ? in.sizes.blocks() * in.sizes.block_states() : 0),
        C(in.C.constant ? in.sizes.blocks() * in.sizes.block_states() : 0),
        D(in.sizes.blocks() * W),
        delta_bias(in.sizes.blocks() * W) {
    const int64_t states = in.sizes.states, size = in.sizes.block_states();
    for (int64_t i = 0; i < in.sizes.blocks(); ++i) {
      const Block block(in.sizes, i);
      stage_states(in.A, states, 1, block, states, A + i * size);
      for (int64_t k = i * size; k < (i + 1) * size; ++k) A[k] *= kLog2E;
      if (in.B.constant) stage_states(in.B.data, in.B.group, in.B.state, block, states, B + i * size);
      if (in.C.constant) stage_states(in.C.data, in.C.group, in.C.state, block, states, C + i * size);
      for (auto [from, to] : {std::pair(in.D, D + i * W), std::pair(in.delta_bias, delta_bias + i * W)}) {
        std::fill(to, to + W, 0.f);
        if (from != nullptr) std::copy_n(from + block.first, block.channels, to);
      }
    }
  }
};

// A batch element, a segment of the length (its steps [from, to)), a range of blocks.
struct Task {
  int64_t b, segment, from, to, range, first_block, last_block;
  int64_t blocks() const { return last_block - first_block; }
};

// How the work is cut into tasks: blocks into ranges so that the busiest thread has least to do; where even so there are
// fewer tasks than threads, also the length into segments.
struct Plan {
  Sizes sizes;
  int64_t ranges = 1, blocks_per_range = 0, segments = 1, steps_per_segment = 0;

  Plan(const Sizes& sizes, int64_t max_ranges, int64_t spare_segments) : sizes(sizes) {
    const int64_t threads = at::get_num_threads(), blocks = sizes.blocks();
    int64_t least = std::numeric_limits<int64_t>::max();
    for (int64_t wanted = 1; wanted <= std::min({max_ranges, blocks, 2 * threads}); ++wanted) {
      const int64_t size = at::divup(blocks, wanted), count = at::divup(blocks, size);
      const int64_t busiest = at::divup(sizes.batch * count, threads) * size;
      if (busiest >= least) continue;
      least = busiest, ranges = count, blocks_per_range = size;
    }
    const int64_t tiles = at::divup(sizes.length, kTile), tasks = sizes.batch * ranges;
    if (2 * tasks <= threads)
      segments = std::clamp<int64_t>(threads / tasks + spare_segments, 1, std::max<int64_t>(sizes.length / kMinSegment, 1));
    steps_per_segment = at::divup(tiles, segments) * kTile;
    segments = at::divup(sizes.length, steps_per_segment);
  }

  std::pair<int64_t, int64_t> steps_of(int64_t segment) const {
    const int64_t from = segment * steps_per_segment;
    return {from, std::min(from + steps_per_segment, sizes.length)};
  }

  // `run(task)` for the segments [first, last), in parallel where there is enough to do.
  template <typename Run>
  void for_each_task(int64_t first, int64_t last, Run run) const {
    const int64_t per_element = (last - first) * ranges;
    const int64_t exponentials = blocks_per_range * sizes.block_states() * steps_per_segment;
    at::parallel_for(0, sizes.batch * per_element, at::divup(1 << 15, exponentials), [&](int64_t begin, int64_t end) {
      for (int64_t index = begin; index < end; ++index) {
        Task task;
        task.b = index / per_element;
        task.segment = first + index / ranges % (last - first);
        std::tie(task.from, task.to) = steps_of(task.segment);
        task.range = index % ranges;
        task.first_block = task.range * blocks_per_range;
        task.last_block = std::min(task.first_block + blocks_per_range, sizes.blocks());
        run(task);
      }
    });
  }
};

// One (dim, N) of states for each batch element and segment.
struct SegmentStates {
  Buffer data;
  int64_t segments, size;
  SegmentStates(const Plan& plan)
      : data(plan.sizes.batch * plan.segments * plan.sizes.dim * plan.sizes.states),
        segments(plan.segments),
        size(plan.sizes.dim * plan.sizes.states) {}
  float* at(int64_t b, int64_t segment) const { return data + (b * segments + segment) * size; }

  // What a segment has by itself becomes the whole: its decay times its neighbour's is added. Null stands for zeros.
  void add_carried(int64_t b, int64_t segment, const SegmentStates& decay, const float* neighbour) {
    if (neighbour == nullptr) return;
    float* own = at(b, segment);
    const float* factor = decay.at(b, segment);
    for (int64_t k = 0; k < size; ++k)
      if (neighbour[k] != 0.f) own[k] += factor[k] * neighbour[k];  // the segment has run from zero, whatever its decay
  }
};

}  // namespace mvc
