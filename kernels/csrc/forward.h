// h_t = exp(Δ_t A) h_{t-1} + Δ_t u_t B_t, y_t = C_t·h_t + D u_t, then y_t SiLU(z_t).
#pragma once

#include "selective_scan.h"

namespace mvc {

// The recurrence over a staged tile: h [state][channel] goes from before its first step to after its last.
template <bool constant_B, bool constant_C, bool read_out>
void run_steps(int64_t steps, int64_t states, const Tile& tile, const float* __restrict__ A, const float* __restrict__ B, const float* __restrict__ C,
               const bool* reset, float* __restrict__ h, float* __restrict__ y) {
  for (int64_t s = 0; s < steps; ++s) {
    if (reset[s]) std::fill(h, h + states * W, 0.f);
    const Vec delta = Vec::loadu(&tile.delta[s * W]), drive = delta * Vec::loadu(&tile.u[s * W]);
    Vec sum(0.f);
#pragma GCC unroll 4
    for (int64_t n = 0; n < states; ++n) {
      const Vec decay = exp(delta * Vec::loadu(A + n * W));
      const Vec state = at::vec::fmadd(decay, Vec::loadu(h + n * W), drive * weight<constant_B>(B, s, n, states));
      state.store(h + n * W);
      if constexpr (read_out) sum = at::vec::fmadd(weight<constant_C>(C, s, n, states), state, sum);
    }
    if constexpr (read_out) sum.store(y + s * W);
  }
}

// What a range of blocks needs while it runs over a stretch of the length.
template <typename T>
struct Range {
  const Inputs<T>& in;
  const int64_t b, first_block, last_block, from, to;  // blocks and steps
  Tile tile;
  std::vector<float> A, constant_B, constant_C;  // [block][state][channel]
  std::vector<float> step_B, step_C;             // [step][state] of `staged_group`
  bool reset[kTile];
  int64_t staged_group = -1;

  Range(const Inputs<T>& in, const Task& task)
      : in(in),
        b(task.b),
        first_block(task.first_block),
        last_block(task.last_block),
        from(task.from),
        to(task.to),
        tile(in.sizes) {
    const int64_t states = in.sizes.states, size = in.sizes.block_states(), blocks = last_block - first_block;
    A.resize(blocks * size);
    constant_B.resize(in.B.constant ? blocks * size : 0);
    constant_C.resize(in.C.constant ? blocks * size : 0);
    step_B.resize(in.B.constant ? 0 : kTile * states);
    step_C.resize(in.C.constant ? 0 : kTile * states);
    for (int64_t i = 0; i < blocks; ++i) {
      const Block block(in.sizes, first_block + i);
      stage_states(in.A, block, states, &A[i * size]);
      if (in.B.constant) stage_constant(in.B.data, in.B.group, in.B.state, block, states, &constant_B[i * size]);
      if (in.C.constant) stage_constant(in.C.data, in.C.group, in.C.state, block, states, &constant_C[i * size]);
    }
  }

  void start_tile(int64_t t, int64_t steps) {
    staged_group = -1;
    for (int64_t s = 0; s < steps; ++s) reset[s] = in.reset.data != nullptr && *in.reset.at(b, t + s, 0);
  }

  void load(int64_t t, int64_t steps, const Block& block) {
    if (block.group != staged_group) {
      if (!in.B.constant) stage(in.B, b, t, block.group, steps, in.sizes.states, step_B.data());
      if (!in.C.constant) stage(in.C, b, t, block.group, steps, in.sizes.states, step_C.data());
      staged_group = block.group;
    }
    tile.load(in, b, t, block, steps);
  }

  const float* B(int64_t i) const { return in.B.constant ? &constant_B[i * in.sizes.block_states()] : step_B.data(); }
  const float* C(int64_t i) const { return in.C.constant ? &constant_C[i * in.sizes.block_states()] : step_C.data(); }
  const float* A_of(int64_t i) const { return &A[i * in.sizes.block_states()]; }

  // `function(constant_B, constant_C)` with both as compile-time constants.
  template <typename Function>
  void with_constants(Function function) const {
    if (in.B.constant)
      in.C.constant ? function(std::true_type{}, std::true_type{}) : function(std::true_type{}, std::false_type{});
    else
      in.C.constant ? function(std::false_type{}, std::true_type{}) : function(std::false_type{}, std::false_type{});
  }

  template <bool read_out>
  void run(int64_t i, int64_t steps, float* h, float* y) const {
    with_constants([&](auto B_constant, auto C_constant) {
      run_steps<B_constant, C_constant, read_out>(steps, in.sizes.states, tile, A_of(i), B(i), C(i), reset, h, y);
    });
  }
};

// D u and the gate, in place.
template <typename T>
void finish(const Inputs<T>& in, const Tile& tile, const Block& block, int64_t steps, float* y) {
  float channels[W];
  stage_channels(in.D, block, channels);
  const Vec D = Vec::loadu(channels);
  for (int64_t s = 0; s < steps; ++s) {
    Vec value = Vec::loadu(y + s * W);
    if (in.D != nullptr) value = at::vec::fmadd(D, Vec::loadu(&tile.u[s * W]), value);
    if (in.z.data != nullptr) {
      const Vec z = Vec::loadu(&tile.z[s * W]);
      value = value * (z * sigmoid(z));
    }
    value.store(y + s * W);
  }
}

// Runs a range; h holds its blocks' states, [block][state][channel].
template <typename T>
void forward_range(Range<T>& range, const Sequence<T>& y, float* h) {
  const Sizes& sizes = range.in.sizes;
  std::vector<float> out(sizes.tile_size());
  for (int64_t t = range.from; t < range.to; t += kTile) {
    const int64_t steps = std::min(kTile, range.to - t);
    range.start_tile(t, steps);
    for (int64_t i = 0; i < range.last_block - range.first_block; ++i) {
      const Block block(sizes, range.first_block + i);
      range.load(t, steps, block);
      range.template run<true>(i, steps, h + i * sizes.block_states(), out.data());
      finish(range.in, range.tile, block, steps, out.data());
      unstage(out.data(), y, range.b, t, block, steps);
    }
  }
}

// The end states of a range from a zero state into h, and the decay over it into P.
template <typename T>
void summarize_range(Range<T>& range, float* h, float* P) {
  const Sizes& sizes = range.in.sizes;
  const int64_t blocks = range.last_block - range.first_block, size = sizes.block_states();
  std::vector<float> total(blocks * W, 0.f);  // ΣΔ
  bool cleared = false;
  for (int64_t t = range.from; t < range.to; t += kTile) {
    const int64_t steps = std::min(kTile, range.to - t);
    range.start_tile(t, steps);
    cleared = cleared || std::any_of(range.reset, range.reset + steps, [](bool reset) { return reset; });
    for (int64_t i = 0; i < blocks; ++i) {
      range.load(t, steps, Block(sizes, range.first_block + i));
      range.template run<false>(i, steps, h + i * size, nullptr);
      Vec sum(0.f);
      for (int64_t s = 0; s < steps; ++s) sum = sum + Vec::loadu(&range.tile.delta[s * W]);
      (Vec::loadu(&total[i * W]) + sum).store(&total[i * W]);
    }
  }
  for (int64_t i = 0; i < blocks; ++i)
    for (int64_t n = 0; n < sizes.states; ++n) {
      const Vec decay = exp(Vec::loadu(&total[i * W]) * Vec::loadu(range.A_of(i) + n * W));
      (cleared ? Vec(0.f) : decay).store(P + i * size + n * W);
    }
}

// States of every batch element, block and segment: [batch][block][segment][state][channel] would scatter a range, so
// the segment comes before the block.
struct SegmentStates {
  const Sizes& sizes;
  const int64_t segments;
  std::vector<float> data;
  SegmentStates(const Sizes& sizes, int64_t segments)
      : sizes(sizes), segments(segments), data(sizes.batch * segments * sizes.blocks() * sizes.block_states(), 0.f) {}
  float* at(int64_t b, int64_t segment, int64_t block) {
    return data.data() + ((b * segments + segment) * sizes.blocks() + block) * sizes.block_states();
  }
};

// Turns what each segment adds by itself into what it starts from, x_{s+1} = P_s x_s + own_s; x_0 is `first`, (batch, dim,
// N), or zero where it is null. `from_last` runs over the segments from the last to the first.
inline void start_from(SegmentStates& own, SegmentStates& P, const float* first, bool from_last) {
  const Sizes& sizes = own.sizes;
  const int64_t size = sizes.blocks() * sizes.block_states();
  at::parallel_for(0, sizes.batch, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> carry(size);
    for (int64_t b = begin; b < end; ++b) {
      std::fill(carry.begin(), carry.end(), 0.f);
      for (int64_t i = 0; first != nullptr && i < sizes.blocks(); ++i)
        stage_states(first + b * sizes.dim * sizes.states, Block(sizes, i), sizes.states, &carry[i * sizes.block_states()]);
      for (int64_t s = 0; s < own.segments; ++s) {
        const int64_t segment = from_last ? own.segments - 1 - s : s;
        float* place = own.at(b, segment, 0);
        const float* decay = s + 1 < own.segments ? P.at(b, segment, 0) : nullptr;
        for (int64_t k = 0; k < size; ++k) {
          const float alone = std::exchange(place[k], carry[k]);
          if (decay != nullptr) carry[k] = decay[k] == 0.f ? alone : decay[k] * carry[k] + alone;
        }
      }
    }
  });
}

inline void store_states(SegmentStates& from, int64_t segment, float* to) {
  const Sizes& sizes = from.sizes;
  at::parallel_for(0, sizes.batch, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b)
      for (int64_t i = 0; i < sizes.blocks(); ++i)
        unstage_states(from.at(b, segment, i), Block(sizes, i), sizes.states, to + b * sizes.dim * sizes.states);
  });
}

template <typename T>
void forward(const Inputs<T>& in, const Sequence<T>& y, float* last_state) {
  const Sizes& sizes = in.sizes;
  const Plan plan(sizes);
  SegmentStates h(sizes, plan.segments), P(sizes, plan.segments > 1 ? plan.segments : 0);
  start_from(h, P, in.initial_state, false);
  if (plan.segments > 1) {
    // Segment 0 runs for good at once; of the others but the last, this pass only finds where they end.
    plan.for_each_task(sizes, 0, plan.segments - 1, [&](const Task& task) {
      Range<T> range(in, task);
      float* states = h.at(task.b, task.segment, task.first_block);
      if (task.segment == 0)
        forward_range(range, y, states);
      else
        summarize_range(range, states, P.at(task.b, task.segment, task.first_block));
    });
    start_from(h, P, nullptr, false);
  }
  plan.for_each_task(sizes, plan.segments > 1 ? 1 : 0, plan.segments, [&](const Task& task) {
    Range<T> range(in, task);
    forward_range(range, y, h.at(task.b, task.segment, task.first_block));
  });
  store_states(h, plan.segments - 1, last_state);
}

}  // namespace mvc
