// h_t = exp(Δ_t A) h_{t-1} + Δ_t u_t B_t, y_t = C_t·h_t + D u_t, then y_t SiLU(z_t).
#pragma once

#include "tiles.h"

namespace mvc {

// Calls `function(K, n)`, K a compile-time constant, for K states from n on at a time.
template <typename Function>
void for_each_group_of_states(int64_t states, Function function) {
  int64_t n = 0;
  for (; n + 4 <= states; n += 4) function(std::integral_constant<int, 4>{}, n);
  for (; n < states; ++n) function(std::integral_constant<int, 1>{}, n);
}

// B or C for K states: [step][state], or, where constant, [state][channel].
template <int K, bool constant>
class StepWeights {
 public:
  StepWeights(const float* data, int64_t n, int64_t states) : data_(data + n), states_(states) {
    if constexpr (constant)
      for (int k = 0; k < K; ++k) fixed_[k] = Vec::loadu(data + (n + k) * W);
  }
  Vec at(int64_t s, int k) const {
    if constexpr (constant)
      return fixed_[k];
    else
      return Vec(data_[s * states_ + k]);
  }

 private:
  const float* data_;
  int64_t states_;
  Vec fixed_[constant ? K : 1];
};

// A staged tile of one block.
struct Tile {
  Buffer u{kTile * W}, raw_delta{kTile * W}, delta{kTile * W}, drive{kTile * W}, z{kTile * W};  // raw: before softplus
  Buffer y{kTile * W};  // before the gate
  const float *A, *B, *C;  // of the block (A and constant B and C) or of the steps
  const bool* reset;       // null where no step of the tile resets
  int64_t steps, states;
};

// K states from n on over a tile: h [state][channel] goes from before its first step to after its last. `read_out` adds
// C·h to y. `keep` writes all states [k][step + 1][channel], from those before the first step on, and decays [k][step][channel].
template <int K, bool constant_B, bool constant_C, bool read_out, bool keep>
void run_states(const Tile& tile, int64_t n, float* __restrict__ h, float* __restrict__ states, float* __restrict__ decays) {
  const StepWeights<K, constant_B> B(tile.B, n, tile.states);
  const StepWeights<K, constant_C> C(tile.C, n, tile.states);
  const float* __restrict__ A = tile.A + n * W;
  const float *__restrict__ deltas = tile.delta, *__restrict__ drives = tile.drive;
  float* __restrict__ y = tile.y;
  const bool* reset = tile.reset;
  Vec state[K];
  for (int k = 0; k < K; ++k) {
    state[k] = Vec::loadu(h + (n + k) * W);
    if constexpr (keep) state[k].store(states + k * (kTile + 1) * W);
  }
  for (int64_t s = 0; s < tile.steps; ++s) {
    if (reset != nullptr && reset[s])
      for (int k = 0; k < K; ++k) state[k] = Vec(0.f);
    const Vec delta = Vec::loadu(deltas + s * W), drive = Vec::loadu(drives + s * W);
    Vec sum(0.f);
    if constexpr (read_out) sum = Vec::loadu(y + s * W);
#pragma GCC unroll 4
    for (int k = 0; k < K; ++k) {
      const Vec decay = exp2(delta * Vec::loadu(A + k * W));
      state[k] = at::vec::fmadd(decay, state[k], drive * B.at(s, k));
      if constexpr (read_out) sum = at::vec::fmadd(C.at(s, k), state[k], sum);
      if constexpr (keep) {
        decay.store(decays + (k * kTile + s) * W);
        state[k].store(states + (k * (kTile + 1) + s + 1) * W);
      }
    }
    if constexpr (read_out) sum.store(y + s * W);
  }
  for (int k = 0; k < K; ++k) state[k].store(h + (n + k) * W);
}

// What a task needs while it runs.
template <typename T>
struct Range {
  const Inputs<T>& in;
  const Parameters& parameters;
  const Task& task;
  Tile tile;
  Buffer step_B, step_C;  // [step][state] of `staged_group`
  int64_t staged_group = -1;
  bool resets[kTile];

  Range(const Inputs<T>& in, const Parameters& parameters, const Task& task)
      : in(in),
        parameters(parameters),
        task(task),
        step_B(in.B.constant ? 0 : kTile * in.sizes.states),
        step_C(in.C.constant ? 0 : kTile * in.sizes.states) {
    tile.states = in.sizes.states;
  }

  // `run(t)` for the first step t of each tile, from the first tile on.
  template <typename Run>
  void for_each_tile(Run run) {
    for (int64_t t = task.from; t < task.to; t += kTile) start_tile(t), run(t);
  }

  void start_tile(int64_t t) {
    staged_group = -1;
    tile.steps = std::min(kTile, task.to - t);
    bool any = false;
    for (int64_t s = 0; s < tile.steps; ++s) any |= resets[s] = in.resets(task.b, t + s);
    tile.reset = any ? resets : nullptr;
  }

  // Stages block i of the range: all that the states and the ungated output need.
  void load(int64_t t, int64_t i) {
    const int64_t index = task.first_block + i, states = in.sizes.states, size = in.sizes.block_states();
    const Block block(in.sizes, index);
    if (block.group != staged_group) {
      if (!in.B.constant) stage(in.B, task.b, t, block.group, tile.steps, states, step_B);
      if (!in.C.constant) stage(in.C, task.b, t, block.group, tile.steps, states, step_C);
      staged_group = block.group;
    }
    tile.A = parameters.A + index * size;
    tile.B = in.B.constant ? parameters.B + index * size : step_B;
    tile.C = in.C.constant ? parameters.C + index * size : step_C;
    stage(in.u, task.b, t, block, tile.steps, tile.u);
    stage(in.delta, task.b, t, block, tile.steps, tile.raw_delta);
    const Vec bias = Vec::loadu(parameters.delta_bias + index * W), D = Vec::loadu(parameters.D + index * W);
    for (int64_t k = 0; k < tile.steps * W; k += W) {
      const Vec u = Vec::loadu(tile.u + k), raw = Vec::loadu(tile.raw_delta + k) + bias;
      const Vec delta = in.softplus ? softplus(raw) : raw;
      raw.store(tile.raw_delta + k);
      delta.store(tile.delta + k);
      (delta * u).store(tile.drive + k);
      (in.D == nullptr ? Vec(0.f) : D * u).store(tile.y + k);
    }
  }

  // `function(constant_B, constant_C)` with both as compile-time constants.
  template <typename Function>
  void with_constants(Function function) const {
    if (in.B.constant)
      in.C.constant ? function(std::true_type{}, std::true_type{}) : function(std::true_type{}, std::false_type{});
    else
      in.C.constant ? function(std::false_type{}, std::true_type{}) : function(std::false_type{}, std::false_type{});
  }

  // Runs the staged tile.
  template <bool read_out>
  void run(float* h) const {
    with_constants([&](auto constant_B, auto constant_C) {
      for_each_group_of_states(tile.states, [&](auto K, int64_t n) {
        constexpr bool of_C = read_out && decltype(constant_C)::value;
        run_states<K, decltype(constant_B)::value, of_C, read_out, false>(tile, n, h, nullptr, nullptr);
      });
    });
  }

  // The states of the task's blocks [block][state][channel] from (dim, N), zeros where that is null, and to it.
  void read_states(const float* from, float* h) const {
    const int64_t size = in.sizes.block_states();
    if (from == nullptr) std::fill(h, h + task.blocks() * size, 0.f);
    for (int64_t i = 0; from != nullptr && i < task.blocks(); ++i)
      stage_states(from, in.sizes.states, 1, Block(in.sizes, task.first_block + i), in.sizes.states, h + i * size);
  }
  void write_states(const float* h, float* to) const {
    for (int64_t i = 0; to != nullptr && i < task.blocks(); ++i)
      unstage_states(h + i * in.sizes.block_states(), Block(in.sizes, task.first_block + i), in.sizes.states, to);
  }
};

template <typename T>
void gate_output(Range<T>& range, int64_t t, const Block& block) {
  const Tile& tile = range.tile;
  if (range.in.z.data == nullptr) return;
  stage(range.in.z, range.task.b, t, block, tile.steps, tile.z);
  for (int64_t k = 0; k < tile.steps * W; k += W) {
    const Vec z = Vec::loadu(tile.z + k);
    (Vec::loadu(tile.y + k) * (z * sigmoid(z))).store(tile.y + k);
  }
}

// y of a task, from the states `first` to the states `last`, both (dim, N) or null.
template <typename T>
void run_task(Range<T>& range, const Sequence<T>& y, const float* first, float* last) {
  const Task& task = range.task;
  const int64_t size = range.in.sizes.block_states();
  Buffer h(task.blocks() * size);
  range.read_states(first, h);
  range.for_each_tile([&](int64_t t) {
    for (int64_t i = 0; i < task.blocks(); ++i) {
      const Block block(range.in.sizes, task.first_block + i);
      for (int64_t s = 0; s < range.tile.steps; ++s) __builtin_prefetch(y.at(task.b, t + s, block.first), 1);
      range.load(t, i);
      range.template run<true>(h + i * size);
      gate_output(range, t, block);
      unstage(range.tile.y, y, task.b, t, block, range.tile.steps);
    }
  });
  range.write_states(h, last);
}

// Where a task's states end when they start from zero, and the decay over it, both (dim, N).
template <typename T>
void summarize_task(Range<T>& range, float* ends, float* decay) {
  const int64_t size = range.in.sizes.block_states(), blocks = range.task.blocks();
  Buffer h(blocks * size, 0.f), total(blocks * W, 0.f);  // ΣΔ
  range.for_each_tile([&](int64_t t) {
    for (int64_t i = 0; i < blocks; ++i) {
      range.load(t, i);
      range.template run<false>(h + i * size);
      Vec sum(0.f);
      for (int64_t s = 0; s < range.tile.steps; ++s) sum = sum + Vec::loadu(range.tile.delta + s * W);
      (Vec::loadu(total + i * W) + sum).store(total + i * W);
    }
  });
  range.write_states(h, ends);
  for (int64_t i = 0; i < blocks; ++i)
    for (int64_t k = i * size; k < (i + 1) * size; k += W)
      exp2(Vec::loadu(total + i * W) * Vec::loadu(range.parameters.A + range.task.first_block * size + k)).store(h + k);
  range.write_states(h, decay);
}

template <typename T>
void forward(const Inputs<T>& in, const Sequence<T>& y, float* last_state) {
  const Sizes& sizes = in.sizes;
  const Plan plan(sizes, sizes.blocks(), 1);
  const Parameters parameters(in);
  const int64_t size = sizes.dim * sizes.states, last = plan.segments - 1;
  auto initial = [&](int64_t b) { return in.initial_state == nullptr ? nullptr : in.initial_state + b * size; };
  if (last == 0) {
    plan.for_each_task(0, 1, [&](const Task& task) {
      Range<T> range(in, parameters, task);
      run_task(range, y, initial(task.b), last_state + task.b * size);
    });
    return;
  }
  // The first segment runs for good at once; of the others but the last, this pass only finds where they end.
  SegmentStates ends(plan), decay(plan);
  plan.for_each_task(0, last, [&](const Task& task) {
    Range<T> range(in, parameters, task);
    if (task.segment == 0)
      run_task(range, y, initial(task.b), ends.at(task.b, 0));
    else
      summarize_task(range, ends.at(task.b, task.segment), decay.at(task.b, task.segment));
  });
  for (int64_t b = 0; b < sizes.batch; ++b)
    for (int64_t segment = 1; segment < last; ++segment) {
      const auto [from, to] = plan.steps_of(segment);
      if (in.first_reset(b, from, to) == to) ends.add_carried(b, segment, decay, ends.at(b, segment - 1));
    }
  plan.for_each_task(1, plan.segments, [&](const Task& task) {
    Range<T> range(in, parameters, task);
    run_task(range, y, ends.at(task.b, task.segment - 1), task.segment == last ? last_state + task.b * size : nullptr);
  });
}

}  // namespace mvc
