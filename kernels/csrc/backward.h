// The adjoint: g_t = C_t ∂y_t + Ā_{t+1} g_{t+1} is the same recurrence run from the other end. States are computed again,
// from checkpoints at the tiles' starts.
#pragma once

#include <optional>

#include "forward.h"

namespace mvc {

template <typename T>
struct Gradients {
  Sequence<T> u, delta, z;  // z.data may be null
  float *A, *D, *delta_bias;  // [batch][segment], to be summed
  float *B, *C;               // [batch][step][group][state], or, constant, as A
  float *shared_B, *shared_C;  // [range - 1][batch][step][state], see `slab`
  float* initial_state;       // (batch, dim, N)
};

// As many ranges as keep the parts of B's and C's gradients that `add_shared` adds up within the size of u.
inline int64_t max_ranges(const Sizes& sizes, int64_t element_size) {
  return std::min(sizes.blocks(), 1 + sizes.dim * element_size / (2 * sizes.states * int64_t{sizeof(float)}));
}

// A range whose first group began in the range before it has a slab of its own for that group's sums; all others go where
// the result is.
inline bool shares_first_group(const Sizes& sizes, const Plan& plan, int64_t range) {
  return range * plan.blocks_per_range % sizes.blocks_per_group() != 0;
}

inline void add_shared(const Plan& plan, const float* shared, float* sums) {
  const Sizes& sizes = plan.sizes;
  const int64_t rows = sizes.batch * sizes.length, N = sizes.states;
  at::parallel_for(0, rows, 1 + (1 << 14) / (plan.ranges * N), [&](int64_t begin, int64_t end) {
    for (int64_t range = 1; range < plan.ranges; ++range) {
      if (!shares_first_group(sizes, plan, range)) continue;
      const int64_t group = Block(sizes, range * plan.blocks_per_range).group;
      for (int64_t row = begin; row < end; ++row)
        for (int64_t n = 0; n < N; ++n)
          sums[(row * sizes.groups + group) * N + n] += shared[((range - 1) * rows + row) * N + n];
    }
  });
}

inline void add_to(float* sum, Vec values) { (Vec::loadu(sum) + values).store(sum); }

// Sums of many tiles' sums, in Kahan's way: what rounding takes from one addition, the next gives back.
class LongSums {
 public:
  explicit LongSums(int64_t size) : sums_(size, 0.f), lost_(size, 0.f) {}
  operator const float*() const { return sums_; }
  void add(int64_t k, Vec values) {
    const Vec before = Vec::loadu(sums_ + k), addend = values - Vec::loadu(lost_ + k), sum = before + addend;
    ((sum - before) - addend).store(lost_ + k);
    sum.store(sums_ + k);
  }

 private:
  Buffer sums_, lost_;
};

inline float sum_lanes(Vec v) {
  return at::vec::vec_reduce_all<float>([](Vec& a, Vec& b) { return a + b; }, v);
}

template <typename T>
struct AdjointRange : Range<T> {
  const Sequence<const T> grad_y;
  Rows given;                                   // ∂y as it came
  Buffer gated, grad_drive, grad_delta;         // ∂y before the gate; gradients of Δu and of ΔA / ln 2 over A
  Buffer staged_grad;
  Buffer states{4 * (kTile + 1) * W}, decays{4 * kTile * W};  // of a group of states, as `run_states` keeps them
  Buffer grad_B, grad_C;                        // of the tile's group, [state][step][channel]
  Buffer tile_D{kStrip * W}, tile_bias{kStrip * W};  // sums over the tile's steps
  LongSums sum_A, sum_B, sum_C, sum_D, sum_bias;     // over the task's; sum_B and sum_C where constant

  AdjointRange(const Inputs<T>& in, const Parameters& parameters, const Sequence<const T>& grad_y, const Task& task)
      : Range<T>(in, parameters, task),
        grad_y(grad_y),
        gated(kStrip * kTile * W),
        grad_drive(kStrip * kTile * W),
        grad_delta(kStrip * kTile * W),
        staged_grad(kStrip * kTile * W),
        grad_B(kTile * in.sizes.block_states()),
        grad_C(kTile * in.sizes.block_states()),
        sum_A(task.blocks() * in.sizes.block_states()),
        sum_B(in.B.constant ? task.blocks() * in.sizes.block_states() : 0),
        sum_C(in.C.constant ? task.blocks() * in.sizes.block_states() : 0),
        sum_D(task.blocks() * W),
        sum_bias(task.blocks() * W) {}

  // Stages what the adjoint of the strip needs besides.
  void load_adjoint() {
    const Sizes& sizes = this->in.sizes;
    const Strip strip = this->strip;
    const bool gate = this->in.z.data != nullptr;
    const Rows of_y = given = read_rows(grad_y, sizes, strip, staged_grad);
    if (gate) this->z = read_rows(this->in.z, sizes, strip, this->staged_z);
    const Rows z = this->z;
    float* __restrict__ to = gated;
    for (int64_t s = 0; s < strip.steps; ++s)
      for (int64_t j = 0; j < strip.blocks; ++j) {
        const Vec value = of_y.at(j, s);
        (gate ? value * (z.at(j, s) * sigmoid(z.at(j, s))) : value).store(to + (j * kTile + s) * W);
      }
    grad_drive.fill(0.f), grad_delta.fill(0.f);
    tile_D.fill(0.f), tile_bias.fill(0.f);
  }
};

// States and decays of K states over a staged tile, from h, as `run_states` keeps them; and the ungated y if asked for.
template <int K, bool constant_B, bool constant_C, typename T>
void recompute(AdjointRange<T>& range, int64_t n, float* h) {
  if (range.in.z.data != nullptr)
    run_states<K, constant_B, constant_C, true, true>(range.tile, n, h, range.states, range.decays);
  else
    run_states<K, constant_B, false, false, true>(range.tile, n, h, range.states, range.decays);
}

// The adjoint of K states of block j of the strip from i on, over a tile from its last step to its first; g [state][channel] is what later steps send to the
// state after its last step, and becomes what it sends to the state before its first.
template <int K, bool constant_B, bool constant_C, typename T>
void run_adjoint(AdjointRange<T>& range, int64_t i, int64_t j, int64_t n, float* __restrict__ g) {
  const Tile& tile = range.tile;
  const StepWeights<K, constant_B> B(tile.B, n);
  const StepWeights<K, constant_C> C(tile.C, n);
  const int64_t of_block = ((i + j) * tile.states + n) * W, of_strip = j * kTile * W;
  const float *__restrict__ A = tile.A + n * W, *__restrict__ states = range.states, *__restrict__ decays = range.decays;
  const float *__restrict__ deltas = tile.delta, *__restrict__ drives = tile.drive, *__restrict__ grads = range.gated + of_strip;
  float *__restrict__ grad_B = range.grad_B + n * kTile * W, *__restrict__ grad_C = range.grad_C + n * kTile * W;
  float *__restrict__ grad_drives = range.grad_drive + of_strip, *__restrict__ grad_deltas = range.grad_delta + of_strip;
  const bool* reset = tile.reset;
  Vec sent[K], sum_A[K], sum_B[constant_B ? K : 1], sum_C[constant_C ? K : 1];
  unrolled<K>([&](auto k) {
    sent[k] = Vec::loadu(g + (n + k) * W);
    sum_A[k] = Vec(0.f);
    if constexpr (constant_B) sum_B[k] = Vec(0.f);
    if constexpr (constant_C) sum_C[k] = Vec(0.f);
  });
  for (int64_t s = tile.steps; s-- > 0;) {
    const Vec delta = Vec::loadu(deltas + s * W), drive = Vec::loadu(drives + s * W), grad = Vec::loadu(grads + s * W);
    Vec grad_drive = Vec::loadu(grad_drives + s * W), grad_delta = Vec::loadu(grad_deltas + s * W);
    const bool cleared = reset != nullptr && reset[s];
    unrolled<K>([&](auto k) {
      const Vec before = Vec::loadu(states + (k * (kTile + 1) + s) * W);
      const Vec after = Vec::loadu(states + (k * (kTile + 1) + s + 1) * W);
      const Vec of_state = at::vec::fmadd(C.at(s, k), grad, sent[k]);
      const int64_t place = (k * kTile + s) * W;
      if constexpr (constant_B)
        sum_B[k] = at::vec::fmadd(of_state, drive, sum_B[k]);
      else
        at::vec::fmadd(of_state, drive, Vec::loadu(grad_B + place)).store(grad_B + place);
      if constexpr (constant_C)
        sum_C[k] = at::vec::fmadd(after, grad, sum_C[k]);
      else
        at::vec::fmadd(after, grad, Vec::loadu(grad_C + place)).store(grad_C + place);
      grad_drive = at::vec::fmadd(of_state, B.at(s, k), grad_drive);
      sent[k] = of_state * Vec::loadu(decays + place);
      Vec of_exponent = sent[k] * before;  // of Δ A
      if (cleared) of_exponent = sent[k] * Vec(0.f), sent[k] = Vec(0.f);
      sum_A[k] = at::vec::fmadd(of_exponent, delta, sum_A[k]);
      grad_delta = at::vec::fmadd(of_exponent, Vec::loadu(A + k * W), grad_delta);
    });
    grad_drive.store(grad_drives + s * W);
    grad_delta.store(grad_deltas + s * W);
  }
  unrolled<K>([&](auto k) {
    sent[k].store(g + (n + k) * W);
    range.sum_A.add(of_block + k * W, sum_A[k]);
    if constexpr (constant_B) range.sum_B.add(of_block + k * W, sum_B[k]);
    if constexpr (constant_C) range.sum_C.add(of_block + k * W, sum_C[k]);
  });
}

// The strip's gradients of u, delta and z, with D, gate and softplus, and what they add to the sums.
template <typename T>
void finish_adjoint(AdjointRange<T>& range, const Gradients<T>& out, int64_t i) {
  const Inputs<T>& in = range.in;
  const Strip strip = range.strip;
  const Rows u = range.u, raw_delta = range.raw_delta, z = range.z, given = range.given;
  const float *delta = range.delta, *gated = range.gated, *of_drive = range.grad_drive, *of_exponent = range.grad_delta;
  const float *y = range.y, *D = range.parameters.D + strip.first_block * W;
  const float* bias = range.parameters.delta_bias + strip.first_block * W;
  float *tile_D = range.tile_D, *tile_bias = range.tile_bias;
  const bool with_D = in.D != nullptr, with_softplus = in.softplus;
  auto at = [](const float* data, int64_t j, int64_t s) { return Vec::loadu(data + (j * kTile + s) * W); };
  write_rows(out.u, in.sizes, strip, [&](int64_t j, int64_t s) {
    const Vec grad = at(gated, j, s), grad_u = at(of_drive, j, s) * at(delta, j, s);
    add_to(tile_D + j * W, grad * u.at(j, s));
    return with_D ? at::vec::fmadd(Vec::loadu(D + j * W), grad, grad_u) : grad_u;
  });
  write_rows(out.delta, in.sizes, strip, [&](int64_t j, int64_t s) {
    Vec grad_delta = at::vec::fmadd(at(of_exponent, j, s), Vec(kLn2), at(of_drive, j, s) * u.at(j, s));
    if (with_softplus) grad_delta = grad_delta * sigmoid(raw_delta.at(j, s) + Vec::loadu(bias + j * W));
    add_to(tile_bias + j * W, grad_delta);
    return grad_delta;
  });
  for (int64_t k = 0; k < strip.blocks * W; k += W) {
    range.sum_D.add(i * W + k, Vec::loadu(tile_D + k));
    range.sum_bias.add(i * W + k, Vec::loadu(tile_bias + k));
  }
  if (in.z.data == nullptr) return;
  write_rows(out.z, in.sizes, strip, [&](int64_t j, int64_t s) {
    const Vec gate = sigmoid(z.at(j, s));
    return given.at(j, s) * at(y, j, s) * (gate * at::vec::fmadd(z.at(j, s), Vec(1.f) - gate, Vec(1.f)));
  });
}

// Sums of a group's channels over a tile, for B or C.
template <typename T>
void write_weights(AdjointRange<T>& range, const Plan& plan, int64_t t, int64_t group, const float* sums, float* whole,
                   float* shared) {
  const Sizes& sizes = range.in.sizes;
  const Task& task = range.task;
  const int64_t N = sizes.states, rows = sizes.batch * sizes.length;
  const bool in_slab = shares_first_group(sizes, plan, task.range) && group == Block(sizes, task.first_block).group;
  for (int64_t s = 0; s < range.tile.steps; ++s) {
    const int64_t row = task.b * sizes.length + range.in.position(t + s);
    float* to = in_slab ? shared + ((task.range - 1) * rows + row) * N : whole + (row * sizes.groups + group) * N;
    for (int64_t n = 0; n < N; ++n) to[n] = sum_lanes(Vec::loadu(sums + (n * kTile + s) * W));
  }
}

// The adjoint of block j of the strip from i on: from the states before the tile and what later steps send, in h and g.
template <typename T>
void adjoint_of_block(AdjointRange<T>& range, int64_t i, int64_t j, float* h, float* g) {
  const int64_t previous = range.group;
  range.select(j);
  if (range.group != previous) range.grad_B.fill(0.f), range.grad_C.fill(0.f);
  range.fetch(range.grad_y, range.next, j);
  range.fetch(range.in.z, range.next, j);
  range.with_constants([&](auto constant_B, auto constant_C) {
    for_each_group_of_states(range.tile.states, [&](auto K, int64_t n) {
      constexpr bool of_B = decltype(constant_B)::value, of_C = decltype(constant_C)::value;
      recompute<K, of_B, of_C>(range, n, h);
      run_adjoint<K, of_B, of_C>(range, i, j, n, g);
    });
  });
}

// The gradients of a task. h: the states before its first step; g: the gradients that later steps send to those after its
// last, which become those sent to h.
template <typename T>
void run_adjoint_task(AdjointRange<T>& range, const Plan& plan, const Gradients<T>& out, float* h, float* g) {
  const Sizes& sizes = range.in.sizes;
  const Task& task = range.task;
  const int64_t blocks = task.blocks(), size = sizes.block_states(), tiles = at::divup(task.to - task.from, kTile);
  Buffer checkpoints(tiles * blocks * size);
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t t = task.from + tile * kTile;
    std::copy_n(h, blocks * size, checkpoints + tile * blocks * size);
    if (tile + 1 == tiles) break;
    range.for_each_strip(t, t + kTile, [&](int64_t i) {
      for (int64_t j = 0; j < range.strip.blocks; ++j) {
        range.select(j);
        range.template run<false>(h + (i + j) * size);
      }
    });
  }
  for (int64_t tile = tiles; tile-- > 0;) {
    const int64_t t = task.from + tile * kTile;
    range.for_each_strip(t, t - kTile >= task.from ? t - kTile : -1, [&](int64_t i) {
      range.load_adjoint();
      for (int64_t j = 0; j < range.strip.blocks; ++j) {
        adjoint_of_block(range, i, j, checkpoints + (tile * blocks + i + j) * size, g + (i + j) * size);
        if (i + j + 1 < blocks && Block(sizes, task.first_block + i + j + 1).group == range.group) continue;
        if (!range.in.B.constant) write_weights(range, plan, t, range.group, range.grad_B, out.B, out.shared_B);
        if (!range.in.C.constant) write_weights(range, plan, t, range.group, range.grad_C, out.C, out.shared_C);
      }
      finish_adjoint(range, out, i);
    });
  }
}

// The sums of a task over its steps, into the rows of its batch element and segment.
template <typename T>
void write_sums(const AdjointRange<T>& range, const Plan& plan, const Gradients<T>& out) {
  const Task& task = range.task;
  const Sizes& sizes = plan.sizes;
  const int64_t row = task.b * plan.segments + task.segment, of_states = row * sizes.dim * sizes.states;
  range.write_states(range.sum_A, out.A + of_states);
  if (range.in.B.constant) range.write_states(range.sum_B, out.B + of_states);
  if (range.in.C.constant) range.write_states(range.sum_C, out.C + of_states);
  for (int64_t i = 0; i < task.blocks(); ++i) {
    const Block block(sizes, task.first_block + i);
    std::copy_n(range.sum_D + i * W, block.channels, out.D + row * sizes.dim + block.first);
    std::copy_n(range.sum_bias + i * W, block.channels, out.delta_bias + row * sizes.dim + block.first);
  }
}

// Over a tile of block j of the strip: the states h, the decay since the task's first step, and in G what the outputs send to the
// state before that step, Σ decay_t C_t ∂y_t; steps from `live` on send nothing across a reset.
template <bool constant_B, bool constant_C, typename T>
void summarize_tile(AdjointRange<T>& range, int64_t j, int64_t live, float* h, float* decay, float* G) {
  const Tile& tile = range.tile;
  for (int64_t n = 0; n < tile.states; ++n) {
    const StepWeights<1, constant_C> C(tile.C, n);
    recompute<1, constant_B, constant_C>(range, n, h);
    Vec product = Vec::loadu(decay + n * W), sum = Vec::loadu(G + n * W);
    for (int64_t s = 0; s < live; ++s) {
      const Vec decay = Vec::loadu(range.decays + s * W);
      product = never_vanishing(product * decay, at::vec::minimum(product, decay));
      sum = at::vec::fmadd(product, C.at(s, 0) * Vec::loadu(range.gated + (j * kTile + s) * W), sum);
    }
    product.store(decay + n * W);
    sum.store(G + n * W);
  }
}

// Of a task by itself, (dim, N) each: where the states end that start from zero, the decay over it unless it resets, and
// what its outputs send to the state before its first step.
template <typename T>
void summarize_adjoint_task(AdjointRange<T>& range, float* ends, float* decay, float* sent) {
  const int64_t blocks = range.task.blocks(), size = range.in.sizes.block_states();
  Buffer h(blocks * size, 0.f), product(blocks * size, 1.f), G(blocks * size, 0.f);
  const int64_t reset = range.in.first_reset(range.task.b, range.task.from, range.task.to);
  range.for_each_strip([&](int64_t i) {
    const int64_t live = std::clamp<int64_t>(reset - range.strip.t, 0, range.strip.steps);
    range.load_adjoint();
    for (int64_t j = 0; j < range.strip.blocks; ++j) {
      const int64_t k = (i + j) * size;
      range.select(j);
      range.with_constants([&](auto constant_B, auto constant_C) {
        constexpr bool of_B = decltype(constant_B)::value, of_C = decltype(constant_C)::value;
        summarize_tile<of_B, of_C>(range, j, live, h + k, product + k, G + k);
      });
    }
  });
  range.write_states(h, ends);
  range.write_states(product, decay);
  range.write_states(G, sent);
}

template <typename T>
void backward(const Inputs<T>& in, const Sequence<const T>& grad_y, const float* grad_last_state, const Plan& plan,
              const Gradients<T>& out) {
  const Sizes& sizes = in.sizes;
  const Parameters parameters(in);
  const int64_t size = sizes.dim * sizes.states, last = plan.segments - 1;
  std::optional<SegmentStates> ends, sent;
  auto before = [&](int64_t b, int64_t segment) -> const float* {
    const float* initial = in.initial_state == nullptr ? nullptr : in.initial_state + b * size;
    return segment == 0 ? initial : ends->at(b, segment - 1);
  };
  auto after = [&](int64_t b, int64_t segment) -> const float* {
    return segment == last ? grad_last_state + b * size : sent->at(b, segment + 1);
  };
  if (last > 0) {
    SegmentStates decay(plan);
    ends.emplace(plan), sent.emplace(plan);
    plan.for_each_task(0, plan.segments, [&](const Task& task) {
      AdjointRange<T> range(in, parameters, grad_y, task);
      const int64_t b = task.b, segment = task.segment;
      summarize_adjoint_task(range, ends->at(b, segment), decay.at(b, segment), sent->at(b, segment));
    });
    for (int64_t b = 0; b < sizes.batch; ++b) {
      auto join = [&](SegmentStates& own, int64_t segment, const float* neighbour) {
        const auto [from, to] = plan.steps_of(segment);
        if (in.first_reset(b, from, to) == to) own.add_carried(b, segment, decay, neighbour);
      };
      for (int64_t segment = 0; segment <= last; ++segment) join(*ends, segment, before(b, segment));
      for (int64_t segment = last; segment >= 0; --segment) join(*sent, segment, after(b, segment));
    }
  }
  plan.for_each_task(0, plan.segments, [&](const Task& task) {
    AdjointRange<T> range(in, parameters, grad_y, task);
    Buffer h(task.blocks() * sizes.block_states()), g(task.blocks() * sizes.block_states());
    range.read_states(before(task.b, task.segment), h);
    range.read_states(after(task.b, task.segment), g);
    run_adjoint_task(range, plan, out, h, g);
    write_sums(range, plan, out);
    range.write_states(g, task.segment == 0 ? out.initial_state + task.b * size : nullptr);
  });
  if (!in.B.constant) add_shared(plan, out.shared_B, out.B);
  if (!in.C.constant) add_shared(plan, out.shared_C, out.C);
}

}  // namespace mvc
