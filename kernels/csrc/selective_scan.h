// What the forward and the backward of the scan share: its inputs, tiles of them staged as float, and vector functions.
//
// Memory order and dtype matter only while a tile is staged; the recurrences themselves run on float buffers
// [step][channel] of one block: W neighbouring channels of one group, side by side in a vector.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace mvc {

using Vec = at::vec::Vectorized<float>;
using IntVec = at::vec::Vectorized<int32_t>;
constexpr int64_t W = Vec::size();
constexpr int64_t kTile = 32;  // steps staged at a time

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
  int64_t blocks_per_group() const { return (width() + W - 1) / W; }
  int64_t blocks() const { return groups * blocks_per_group(); }
  int64_t tile_size() const { return kTile * W; }
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
};

// exp to a unit in the last place, 0 below the smallest normal number, NaN for NaN. at::vec's exp() is a call that
// spills the vector registers, and its exp_u20() makes a number of a NaN.
inline Vec exp(Vec x) {
  const Vec shift(12582912.f + 127.f);  // 1.5 * 2^23: the sum's last bits are the rounded x / ln 2, here with its bias
  x = at::vec::clamp(x, Vec(-88.03f), Vec(89.f));
  const Vec shifted = at::vec::fmadd(x, Vec(1.44269504088896341f), shift), n = shifted - shift;
  Vec r = at::vec::fmadd(n, Vec(-0.693145751953125f), x);  // ln 2 in two parts
  r = at::vec::fmadd(n, Vec(-1.42860682030941723212e-6f), r);
  // (e^r - 1 - r) / r², with the coefficients of Cephes' expf; in pairs, since the latency of a chain would be felt.
  const Vec square = r * r;
  const Vec high = at::vec::fmadd(Vec(1.9875691500e-4f), r, Vec(1.3981999507e-3f));
  const Vec middle = at::vec::fmadd(Vec(8.3334519073e-3f), r, Vec(4.1665795894e-2f));
  const Vec low = at::vec::fmadd(Vec(1.6666665459e-1f), r, Vec(5.0000001201e-1f));
  const Vec p = at::vec::fmadd(at::vec::fmadd(at::vec::fmadd(high, square, middle), square, low), square, r) + Vec(1.f);
  return p * at::vec::cast<float>(at::vec::cast<int32_t>(shifted) << IntVec(23));
}

// log(1 + t) for t in [0, 1], as 2 artanh(t / (2 + t)); as exact for a small t as for a large one.
inline Vec log1p(Vec t) {
  const Vec s = t / (t + Vec(2.f)), q = s * s;
  Vec p = at::vec::fmadd(q, Vec(2.f / 15), Vec(2.f / 13));
  for (float odd : {11.f, 9.f, 7.f, 5.f, 3.f}) p = at::vec::fmadd(p, q, Vec(2.f / odd));
  return at::vec::fmadd(p * q, s, s + s);
}

inline Vec softplus(Vec x) {
  return at::vec::maximum(x, Vec(0.f)) + log1p(exp(x.abs().neg()));
}

inline Vec sigmoid(Vec x) { return Vec(1.f) / (Vec(1.f) + exp(x.neg())); }

// Reads `steps` steps of a block as float [step][channel], zeros in the lanes beyond its channels.
template <typename T>
void stage(const Sequence<const T>& from, int64_t b, int64_t t, const Block& block, int64_t steps, float* to) {
  const T* source = from.at(b, t, block.first);
  if (block.channels < W) std::fill(to, to + steps * W, 0.f);
  if (from.channel == 1) {
    for (int64_t s = 0; s < steps; ++s)
      for (int64_t c = 0; c < block.channels; ++c) to[s * W + c] = static_cast<float>(source[s * from.step + c]);
  } else {
    for (int64_t c = 0; c < block.channels; ++c)
      for (int64_t s = 0; s < steps; ++s) to[s * W + c] = static_cast<float>(source[c * from.channel + s * from.step]);
  }
}

template <typename T>
void unstage(const float* from, const Sequence<T>& to, int64_t b, int64_t t, const Block& block, int64_t steps) {
  for (int64_t s = 0; s < steps; ++s) {
    T* target = to.at(b, t + s, block.first);
    for (int64_t c = 0; c < block.channels; ++c) target[c] = static_cast<T>(from[s * W + c]);
  }
}

// Reads B or C of one group as float [step][state].
template <typename T>
void stage(const Weights<const T>& from, int64_t b, int64_t t, int64_t group, int64_t steps, int64_t states, float* to) {
  const T* source = from.data + b * from.batch + t * from.step + group * from.group;
  for (int64_t s = 0; s < steps; ++s)
    for (int64_t n = 0; n < states; ++n)
      to[s * states + n] = static_cast<float>(source[s * from.step + n * from.state]);
}

// Reads (dim, N) as [state][channel] of a block.
template <typename T>
void stage_constant(const T* from, int64_t channel, int64_t state, const Block& block, int64_t states, float* to) {
  std::fill(to, to + states * W, 0.f);
  for (int64_t c = 0; c < block.channels; ++c)
    for (int64_t n = 0; n < states; ++n)
      to[n * W + c] = static_cast<float>(from[(block.first + c) * channel + n * state]);
}

inline void stage_states(const float* from, const Block& block, int64_t states, float* to) {
  stage_constant(from, states, 1, block, states, to);
}

inline void unstage_states(const float* from, const Block& block, int64_t states, float* to) {
  for (int64_t c = 0; c < block.channels; ++c)
    for (int64_t n = 0; n < states; ++n) to[(block.first + c) * states + n] = from[n * W + c];
}

inline void stage_channels(const float* from, const Block& block, float* to) {
  std::fill(to, to + W, 0.f);
  if (from != nullptr) std::copy(from + block.first, from + block.first + block.channels, to);
}

// B or C of one state, from [step][state] or, constant, from [state][channel].
template <bool constant>
inline Vec weight(const float* data, int64_t step, int64_t n, int64_t states) {
  return constant ? Vec::loadu(data + n * W) : Vec(data[step * states + n]);
}

// A tile of one block, staged: the raw Δ (before softplus) is kept for the backward alone.
struct Tile {
  std::vector<float> u, raw_delta, delta, z;
  explicit Tile(const Sizes& sizes)
      : u(sizes.tile_size()), raw_delta(sizes.tile_size()), delta(sizes.tile_size()), z(sizes.tile_size()) {}

  template <typename T>
  void load(const Inputs<T>& in, int64_t b, int64_t t, const Block& block, int64_t steps) {
    stage(in.u, b, t, block, steps, u.data());
    stage(in.delta, b, t, block, steps, raw_delta.data());
    if (in.z.data != nullptr) stage(in.z, b, t, block, steps, z.data());
    float bias[W];
    stage_channels(in.delta_bias, block, bias);
    const Vec shift = Vec::loadu(bias);
    for (int64_t s = 0; s < steps; ++s) {
      const Vec raw = Vec::loadu(&raw_delta[s * W]) + shift;
      raw.store(&raw_delta[s * W]);
      (in.softplus ? softplus(raw) : raw).store(&delta[s * W]);
    }
  }
};

// A batch element, a segment of the length (its steps [from, to)), a range of blocks.
struct Task {
  int64_t b, segment, from, to, first_block, last_block;
};

// How the work is cut into tasks. Blocks are divided until every thread has a few tasks; where even single blocks are
// fewer than threads, the length is.
struct Plan {
  int64_t ranges, blocks_per_range, segments, steps_per_segment;

  explicit Plan(const Sizes& sizes) {
    const int64_t threads = at::get_num_threads(), batch = sizes.batch, blocks = sizes.blocks();
    const int64_t wanted = batch % threads == 0 && batch >= 2 * threads ? batch : 4 * threads;
    ranges = std::clamp<int64_t>(wanted / batch, 1, blocks);
    blocks_per_range = std::min<int64_t>((blocks + ranges - 1) / ranges, 8);
    ranges = (blocks + blocks_per_range - 1) / blocks_per_range;
    const int64_t tiles = (sizes.length + kTile - 1) / kTile, units = batch * blocks;
    segments = units < threads ? std::clamp<int64_t>(threads / units + 1, 1, tiles) : 1;
    steps_per_segment = (tiles + segments - 1) / segments * kTile;
    segments = (sizes.length + steps_per_segment - 1) / steps_per_segment;
  }

  // `run(task)` for the segments [first, last), in parallel.
  template <typename Run>
  void for_each_task(const Sizes& sizes, int64_t first, int64_t last, Run run) const {
    const int64_t per_element = (last - first) * ranges;
    at::parallel_for(0, sizes.batch * per_element, 1, [&](int64_t begin, int64_t end) {
      for (int64_t index = begin; index < end; ++index) {
        Task task;
        task.b = index / per_element;
        task.segment = first + index / ranges % (last - first);
        task.from = task.segment * steps_per_segment;
        task.to = std::min(task.from + steps_per_segment, sizes.length);
        task.first_block = index % ranges * blocks_per_range;
        task.last_block = std::min(task.first_block + blocks_per_range, sizes.blocks());
        run(task);
      }
    });
  }
};

}  // namespace mvc
