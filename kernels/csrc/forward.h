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

// `function(k)` for k from 0 to K - 1, each a compile-time constant, so that arrays over k stay in registers.
template <int K, typename Function>
inline void unrolled(Function function) {
  [&]<int... k>(std::integer_sequence<int, k...>) { (function(std::integral_constant<int, k>{}), ...); }
  (std::make_integer_sequence<int, K>{});
}

// B or C for K states from n on.
template <int K, bool constant>
class StepWeights {
 public:
  StepWeights(const TileWeights& weights, int64_t n) : data_(weights.data + n), step_(weights.step) {
    if constexpr (constant) unrolled<K>([&](auto k) { fixed_[k] = Vec::loadu(weights.data + (n + k) * W); });
  }
  Vec at(int64_t s, int k) const {
    if constexpr (constant)
      return fixed_[k];
    else
      return Vec(data_[s * step_ + k]);
  }

 private:
  const float* data_;
  int64_t step_;
  Vec fixed_[constant ? K : 1];
};

// A staged tile of one block; [step][channel] where nothing else is said.
struct Tile {
  const float *delta, *drive;  // Δ, Δu
  float* y;                    // before the gate
  const float* A;              // [state][channel], over ln 2
  TileWeights B, C;
  const bool* reset;           // null where no step of the tile resets
  int64_t steps, states;
  Ahead ahead[4];  // what to fetch meanwhile, `aheads` of them
  int64_t aheads;

  // What the states from n on fetch: each group of four some, so that there is time; nothing new where all is done.
  std::pair<Ahead, Ahead> ahead_of_group(int64_t n) const {
    auto pick = [&](int64_t i) { return i < aheads ? ahead[i] : Ahead{reinterpret_cast<const char*>(delta), 0, 0}; };
    return {pick(n / 4), pick(n / 4 + std::max<int64_t>(states / 4, 1))};
  }
};

// K states from n on over a tile: h [state][channel] goes from before its first step to after its last. `read_out` adds
// C·h to y. `keep` writes all states [k][step + 1][channel], from those before the first step on, and decays [k][step][channel].
template <int K, bool constant_B, bool constant_C, bool read_out, bool keep>
void run_states(const Tile& tile, int64_t n, float* __restrict__ h, float* __restrict__ states, float* __restrict__ decays) {
  const StepWeights<K, constant_B> B(tile.B, n);
  const StepWeights<K, constant_C> C(tile.C, n);
  const float* __restrict__ A = tile.A + n * W;
  const float *__restrict__ deltas = tile.delta, *__restrict__ drives = tile.drive;
  float* __restrict__ y = tile.y;
  const bool* reset = tile.reset;
  const auto [ahead, further_ahead] = tile.ahead_of_group(n);
  Vec state[K];
  unrolled<K>([&](auto k) {
    state[k] = Vec::loadu(h + (n + k) * W);
    if constexpr (keep) state[k].store(states + k * (kTile + 1) * W);
  });
  for (int64_t s = 0; s < tile.steps; ++s) {
    if (reset != nullptr && reset[s]) unrolled<K>([&](auto k) { state[k] = Vec(0.f); });
    ahead.fetch(s), further_ahead.fetch(s);
    const Vec delta = Vec::loadu(deltas + s * W), drive = Vec::loadu(drives + s * W);
    Vec sum(0.f);
    if constexpr (read_out) sum = Vec::loadu(y + s * W);
    unrolled<K>([&](auto k) {
      const Vec decay = exp2(delta * Vec::loadu(A + k * W));
      state[k] = at::vec::fmadd(decay, state[k], drive * B.at(s, k));
      if constexpr (read_out) sum = at::vec::fmadd(C.at(s, k), state[k], sum);
      if constexpr (keep) {
        decay.store(decays + (k * kTile + s) * W);
        state[k].store(states + (k * (kTile + 1) + s + 1) * W);
      }
    });
    if constexpr (read_out) sum.store(y + s * W);
  }
  unrolled<K>([&](auto k) { state[k].store(h + (n + k) * W); });
}

// What a task needs while it runs: a tile of a strip of its blocks, staged.
template <typename T>
struct Range {
  const Inputs<T>& in;
  const Parameters& parameters;
  const Task& task;
  Strip strip, next;               // next.blocks is 0 after the last
  Tile tile;                       // of one block of the strip
  Rows u, raw_delta, z;            // raw: before the bias and softplus
  Buffer delta, drive, y;          // [block][step][channel]
  Buffer staged_u, staged_delta, staged_z;
  Buffer staged_B, staged_C;       // [step][state]
  int64_t group = -1;              // whose B and C the tile has
  bool resets[kTile];

  Range(const Inputs<T>& in, const Parameters& parameters, const Task& task)
      : in(in),
        parameters(parameters),
        task(task),
        delta(kStrip * kTile * W),
        drive(kStrip * kTile * W),
        y(kStrip * kTile * W),
        staged_u(kStrip * kTile * W),
        staged_delta(kStrip * kTile * W),
        staged_z(kStrip * kTile * W),
        staged_B(in.B.constant ? 0 : kTile * in.sizes.states),
        staged_C(in.C.constant ? 0 : kTile * in.sizes.states) {
    tile.states = in.sizes.states;
  }

  // `run(i)` for each strip of the tile at t, staged, i its first block's place in the task. `next_t` is the tile after it,
  // or negative.
  template <typename Run>
  void for_each_strip(int64_t t, int64_t next_t, Run run) {
    group = -1;
    tile.steps = std::min(kTile, task.to - t);
    bool any = false;
    for (int64_t s = 0; s < tile.steps; ++s) any |= resets[s] = in.resets(task.b, t + s);
    tile.reset = any ? resets : nullptr;
    for (int64_t i = 0; i < task.blocks(); i += kStrip) {
      strip = strip_at(t, i);
      next = i + kStrip < task.blocks() ? strip_at(t, i + kStrip) : next_t >= 0 ? strip_at(next_t, 0) : Strip{};
      load();
      run(i);
    }
  }

  // The same for each tile in turn.
  template <typename Run>
  void for_each_strip(Run run) {
    for (int64_t t = task.from; t < task.to; t += kTile)
      for_each_strip(t, t + kTile < task.to ? t + kTile : -1, run);
  }

  Strip strip_at(int64_t t, int64_t i) const {
    const int64_t blocks = std::min(kStrip, task.blocks() - i), steps = std::min(kTile, task.to - t);
    return {task.b, t, steps, task.first_block + i, blocks, in.sizes.width() % W == 0};
  }

  // Stages the strip: all that the states and the ungated output need.
  void load() {
    u = read_rows(in.u, in.sizes, strip, staged_u);
    raw_delta = read_rows(in.delta, in.sizes, strip, staged_delta);
    const float *biases = parameters.delta_bias + strip.first_block * W, *Ds = parameters.D + strip.first_block * W;
    float *__restrict__ deltas = delta, *__restrict__ drives = drive, *__restrict__ ys = y;
    const Rows of_u = u, of_delta = raw_delta;
    const Strip strip = this->strip;
    const bool with_softplus = in.softplus, with_D = in.D != nullptr;
    for (int64_t s = 0; s < strip.steps; ++s)
      for (int64_t j = 0; j < strip.blocks; ++j) {
        const int64_t k = (j * kTile + s) * W;
        const Vec value = of_u.at(j, s), raw = of_delta.at(j, s) + Vec::loadu(biases + j * W);
        const Vec step = with_softplus ? softplus(raw) : raw;
        step.store(deltas + k);
        (step * value).store(drives + k);
        (with_D ? value * Vec::loadu(Ds + j * W) : Vec(0.f)).store(ys + k);
      }
  }

  // Fetches block j of `of` while the selected block is computed.
  template <typename U>
  void fetch(const Sequence<U>& of, const Strip& strip, int64_t j) {
    if (of.data != nullptr && j < strip.blocks && tile.aheads < 4) tile.ahead[tile.aheads++] = Ahead::of(of, in.sizes, strip, j);
  }

  // Makes block j of the strip the tile's, and fetches that of the next.
  void select(int64_t j) {
    const int64_t index = strip.first_block + j, states = in.sizes.states, size = in.sizes.block_states();
    const int64_t previous = std::exchange(group, Block(in.sizes, index).group);
    if (in.B.constant)
      tile.B = {parameters.B + index * size, 0};
    else if (group != previous)
      tile.B = read_weights(in.B, task.b, strip.t, group, strip.steps, states, staged_B);
    if (in.C.constant)
      tile.C = {parameters.C + index * size, 0};
    else if (group != previous)
      tile.C = read_weights(in.C, task.b, strip.t, group, strip.steps, states, staged_C);
    tile.delta = delta + j * kTile * W;
    tile.drive = drive + j * kTile * W;
    tile.y = y + j * kTile * W;
    tile.A = parameters.A + index * size;
    tile.aheads = 0;
    fetch(in.u, next, j);
    fetch(in.delta, next, j);
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

// The strip's y, with the gate.
template <typename T>
void write_output(Range<T>& range, const Sequence<T>& y) {
  const float* ungated = range.y;
  auto output = [&](int64_t j, int64_t s) { return Vec::loadu(ungated + (j * kTile + s) * W); };
  if (range.in.z.data == nullptr) return write_rows(y, range.in.sizes, range.strip, output);
  const Rows z = range.z = read_rows(range.in.z, range.in.sizes, range.strip, range.staged_z);
  write_rows(y, range.in.sizes, range.strip, [&](int64_t j, int64_t s) {
    return output(j, s) * (z.at(j, s) * sigmoid(z.at(j, s)));
  });
}

// y of a task, from the states `first` to the states `last`, both (dim, N) or null.
template <typename T>
void run_task(Range<T>& range, const Sequence<T>& y, const float* first, float* last) {
  const Task& task = range.task;
  const int64_t size = range.in.sizes.block_states();
  Buffer h(task.blocks() * size);
  range.read_states(first, h);
  range.for_each_strip([&](int64_t i) {
    for (int64_t j = 0; j < range.strip.blocks; ++j) {
      range.select(j);
      range.fetch(y, range.strip, j);
      range.fetch(range.in.z, range.strip, j);
      range.template run<true>(h + (i + j) * size);
    }
    write_output(range, y);
  });
  range.write_states(h, last);
}

// Where a task's states end when they start from zero, and the decay over it, both (dim, N).
template <typename T>
void summarize_task(Range<T>& range, float* ends, float* decay) {
  const Task& task = range.task;
  const int64_t size = range.in.sizes.block_states(), blocks = task.blocks();
  constexpr float infinity = std::numeric_limits<float>::infinity();
  Buffer h(blocks * size, 0.f), total(blocks * W, 0.f);              // ΣΔ
  Buffer least(blocks * W, infinity), most(blocks * W, -infinity);  // Δ
  range.for_each_strip([&](int64_t i) {
    for (int64_t j = 0; j < range.strip.blocks; ++j) {
      range.select(j);
      range.template run<false>(h + (i + j) * size);
      const int64_t k = (i + j) * W;
      Vec sum = Vec::loadu(total + k), low = Vec::loadu(least + k), high = Vec::loadu(most + k);
      for (int64_t s = 0; s < range.strip.steps; ++s) {
        const Vec step = Vec::loadu(range.tile.delta + s * W);
        sum = sum + step, low = at::vec::minimum(low, step), high = at::vec::maximum(high, step);
      }
      sum.store(total + k), low.store(least + k), high.store(most + k);
    }
  });
  range.write_states(h, ends);
  for (int64_t i = 0; i < blocks; ++i)
    for (int64_t k = i * size; k < (i + 1) * size; k += W) {
      const Vec A = Vec::loadu(range.parameters.A + task.first_block * size + k);
      auto decay_over = [&](const float* steps) { return exp2(Vec::loadu(steps + i * W) * A); };
      never_vanishing(decay_over(total), at::vec::minimum(decay_over(least), decay_over(most))).store(h + k);
    }
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
