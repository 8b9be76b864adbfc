// The adjoint: g_t = C_t ∂y_t + Ā_{t+1} g_{t+1} is the same recurrence run from the other end. States are computed again,
// from checkpoints at the tiles' starts.
#pragma once

#include "forward.h"

namespace mvc {

template <typename T>
struct Gradients {
  Sequence<T> u, delta, z;             // z.data may be null
  float *A, *B, *C;                    // partial sums, see `backward`
  float *D, *delta_bias;               // [batch][segment][channel]
  float* initial_state;                // (batch, dim, N)
};

// Where the partial sums of a group's B and C go, when several ranges share the group.
struct Partials {
  const Sizes& sizes;
  int64_t blocks_per_range, count;
  Partials(const Sizes& sizes, const Plan& plan) : sizes(sizes), blocks_per_range(plan.blocks_per_range), count(1) {
    for (int64_t group = 0; group < sizes.groups && sizes.blocks() > 0; ++group)
      count = std::max(count, (last_block(group) / blocks_per_range) - first_range(group) + 1);
  }
  int64_t last_block(int64_t group) const { return (group + 1) * sizes.blocks_per_group() - 1; }
  int64_t first_range(int64_t group) const { return group * sizes.blocks_per_group() / blocks_per_range; }
  // [partial][batch][step][group][state]
  int64_t offset(int64_t block, int64_t b, int64_t t, int64_t group) const {
    const int64_t partial = block / blocks_per_range - first_range(group);
    return (((partial * sizes.batch + b) * sizes.length + t) * sizes.groups + group) * sizes.states;
  }
};

inline float sum_lanes(Vec v) {
  return at::vec::vec_reduce_all<float>([](Vec& a, Vec& b) { return a + b; }, v);
}

// A range with what the adjoint needs besides the inputs.
template <typename T>
struct AdjointRange : Range<T> {
  const Sequence<const T> grad_y;
  std::vector<float> given;      // ∂y as it came, [step][channel]
  std::vector<float> gated;      // ∂y before the gate
  std::vector<float> decays;     // [step][state][channel]
  std::vector<float> states;     // after each step, [step + 1][state][channel]
  std::vector<float> ungated;    // y before the gate
  std::vector<float> grad_u, grad_delta, grad_z;
  std::vector<float> grad_B, grad_C;  // of the staged group, [step][state][channel]
  std::vector<float> sums;            // over the range's steps, [block][state + state + state + 2][channel]

  AdjointRange(const Inputs<T>& in, const Sequence<const T>& grad_y, const Task& task)
      : Range<T>(in, task), grad_y(grad_y) {
    const int64_t tile = in.sizes.tile_size(), size = tile * in.sizes.states;
    for (auto* buffer : {&given, &gated, &ungated, &grad_u, &grad_delta, &grad_z}) buffer->resize(tile);
    for (auto* buffer : {&decays, &grad_B, &grad_C}) buffer->resize(size);
    states.resize(size + in.sizes.block_states());
    sums.assign((task.last_block - task.first_block) * sum_size(), 0.f);
  }

  int64_t sum_size() const { return 3 * this->in.sizes.block_states() + 2 * W; }
  float* sum_A(int64_t i) { return &sums[i * sum_size()]; }
  float* sum_B(int64_t i) { return sum_A(i) + this->in.sizes.block_states(); }
  float* sum_C(int64_t i) { return sum_B(i) + this->in.sizes.block_states(); }
  float* sum_D(int64_t i) { return sum_C(i) + this->in.sizes.block_states(); }
  float* sum_bias(int64_t i) { return sum_D(i) + W; }

  void load(int64_t t, int64_t steps, const Block& block) {
    Range<T>::load(t, steps, block);
    stage(grad_y, this->b, t, block, steps, given.data());
    for (int64_t s = 0; s < steps; ++s) {
      Vec value = Vec::loadu(&given[s * W]);
      if (this->in.z.data != nullptr) {
        const Vec z = Vec::loadu(&this->tile.z[s * W]);
        value = value * (z * sigmoid(z));
      }
      value.store(&gated[s * W]);
    }
  }
};

// States and decays of a tile from `states[0]`, and y before D and the gate.
template <bool constant_B, bool constant_C, typename T>
void recompute(AdjointRange<T>& range, int64_t steps, const float* A, const float* B, const float* C) {
  const int64_t N = range.in.sizes.states;
  for (int64_t s = 0; s < steps; ++s) {
    const float* before = &range.states[s * N * W];
    float *after = &range.states[(s + 1) * N * W], *decays = &range.decays[s * N * W];
    const Vec delta = Vec::loadu(&range.tile.delta[s * W]), drive = delta * Vec::loadu(&range.tile.u[s * W]);
    Vec y(0.f);
    for (int64_t n = 0; n < N; ++n) {
      const Vec decay = exp(delta * Vec::loadu(A + n * W));
      const Vec input = drive * weight<constant_B>(B, s, n, N);
      const Vec state = range.reset[s] ? input : at::vec::fmadd(decay, Vec::loadu(before + n * W), input);
      decay.store(decays + n * W);
      state.store(after + n * W);
      y = at::vec::fmadd(weight<constant_C>(C, s, n, N), state, y);
    }
    y.store(&range.ungated[s * W]);
  }
}

// The adjoint of a tile, from its last step to its first; g [state][channel] is the gradient that later steps send to the
// state after its last step, and becomes what it sends to the state before its first.
template <bool constant_B, bool constant_C, typename T>
void run_adjoint(AdjointRange<T>& range, int64_t i, int64_t steps, float* g) {
  const int64_t N = range.in.sizes.states;
  const float *A = range.A_of(i), *B = range.B(i), *C = range.C(i);
  float* sum_A = range.sum_A(i);
  for (int64_t s = steps; s-- > 0;) {
    const Vec delta = Vec::loadu(&range.tile.delta[s * W]), u = Vec::loadu(&range.tile.u[s * W]), drive = delta * u;
    const Vec grad = Vec::loadu(&range.gated[s * W]);
    const float *before = &range.states[s * N * W], *after = before + N * W, *decays = &range.decays[s * N * W];
    float* grad_B = constant_B ? range.sum_B(i) : &range.grad_B[s * N * W];
    float* grad_C = constant_C ? range.sum_C(i) : &range.grad_C[s * N * W];
    Vec grad_drive(0.f), grad_delta(0.f);
    for (int64_t n = 0; n < N; ++n) {
      const int64_t k = n * W;
      const Vec of_state = at::vec::fmadd(weight<constant_C>(C, s, n, N), grad, Vec::loadu(g + k));
      at::vec::fmadd(of_state, drive, Vec::loadu(grad_B + k)).store(grad_B + k);
      at::vec::fmadd(Vec::loadu(after + k), grad, Vec::loadu(grad_C + k)).store(grad_C + k);
      grad_drive = at::vec::fmadd(of_state, weight<constant_B>(B, s, n, N), grad_drive);
      if (range.reset[s]) {
        Vec(0.f).store(g + k);
        continue;
      }
      const Vec carried = of_state * Vec::loadu(decays + k), of_delta_A = carried * Vec::loadu(before + k);
      carried.store(g + k);
      at::vec::fmadd(of_delta_A, delta, Vec::loadu(sum_A + k)).store(sum_A + k);
      grad_delta = at::vec::fmadd(of_delta_A, Vec::loadu(A + k), grad_delta);
    }
    (grad_drive * delta).store(&range.grad_u[s * W]);
    at::vec::fmadd(grad_drive, u, grad_delta).store(&range.grad_delta[s * W]);
  }
}

// What D, the gate and softplus add to a tile's gradients.
template <typename T>
void finish_adjoint(AdjointRange<T>& range, int64_t i, const Block& block, int64_t steps) {
  const Inputs<T>& in = range.in;
  float channels[W];
  stage_channels(in.D, block, channels);
  const Vec D = Vec::loadu(channels);
  Vec sum_D = Vec::loadu(range.sum_D(i)), sum_bias = Vec::loadu(range.sum_bias(i));
  for (int64_t s = 0; s < steps; ++s) {
    const int64_t k = s * W;
    const Vec u = Vec::loadu(&range.tile.u[k]), grad = Vec::loadu(&range.gated[k]);
    if (in.D != nullptr) at::vec::fmadd(D, grad, Vec::loadu(&range.grad_u[k])).store(&range.grad_u[k]);
    sum_D = at::vec::fmadd(grad, u, sum_D);
    Vec grad_delta = Vec::loadu(&range.grad_delta[k]);
    if (in.softplus) {
      const Vec raw = Vec::loadu(&range.tile.raw_delta[k]);
      grad_delta = grad_delta * Vec::blendv(sigmoid(raw), Vec(1.f), raw > Vec(20.f));
    }
    grad_delta.store(&range.grad_delta[k]);
    sum_bias = sum_bias + grad_delta;
    if (in.z.data != nullptr) {
      const Vec z = Vec::loadu(&range.tile.z[k]), gate = sigmoid(z);
      const Vec y = at::vec::fmadd(D, u, Vec::loadu(&range.ungated[k]));
      const Vec slope = gate * at::vec::fmadd(z, Vec(1.f) - gate, Vec(1.f));
      (Vec::loadu(&range.given[k]) * y * slope).store(&range.grad_z[k]);
    }
  }
  sum_D.store(range.sum_D(i));
  sum_bias.store(range.sum_bias(i));
}

// Over a range: end states from a zero state into h, the decay into P, and into G what the outputs send to
// the state before its first step: Σ_t P_t C_t ∂y_t with P_t the decay up to t.
template <typename T>
void summarize_adjoint(AdjointRange<T>& range, float* h, float* P, float* G) {
  const Sizes& sizes = range.in.sizes;
  const int64_t blocks = range.last_block - range.first_block, size = sizes.block_states(), N = sizes.states;
  std::fill(P, P + blocks * size, 1.f);
  for (int64_t t = range.from; t < range.to; t += kTile) {
    const int64_t steps = std::min(kTile, range.to - t);
    range.start_tile(t, steps);
    for (int64_t i = 0; i < blocks; ++i) {
      range.load(t, steps, Block(sizes, range.first_block + i));
      std::copy(h + i * size, h + (i + 1) * size, range.states.data());
      range.with_constants([&](auto B_constant, auto C_constant) {
        recompute<B_constant, C_constant>(range, steps, range.A_of(i), range.B(i), range.C(i));
        for (int64_t s = 0; s < steps; ++s)
          for (int64_t n = 0; n < N; ++n) {
            const int64_t k = i * size + n * W;
            const Vec decay = range.reset[s] ? Vec(0.f) : Vec::loadu(&range.decays[(s * N + n) * W]);
            const Vec product = Vec::loadu(P + k) * decay;
            const Vec sent = weight<C_constant>(range.C(i), s, n, N) * Vec::loadu(&range.gated[s * W]);
            product.store(P + k);
            at::vec::fmadd(product, sent, Vec::loadu(G + k)).store(G + k);
          }
      });
      std::copy_n(&range.states[steps * size], size, h + i * size);
    }
  }
}

// A range for good: h are the states before its first step; g the gradients that later steps send to those after its
// last, which become those sent to h.
template <typename T>
void backward_range(AdjointRange<T>& range, const Gradients<T>& out, const Partials& partials, float* h, float* g) {
  const Sizes& sizes = range.in.sizes;
  const int64_t blocks = range.last_block - range.first_block, size = sizes.block_states(), N = sizes.states;
  const int64_t tiles = (range.to - range.from + kTile - 1) / kTile;
  std::vector<float> checkpoints(tiles * blocks * size);
  for (int64_t tile = 0; tile < tiles; ++tile) {
    std::copy_n(h, blocks * size, &checkpoints[tile * blocks * size]);
    if (tile + 1 == tiles) break;
    range.start_tile(range.from + tile * kTile, kTile);
    for (int64_t i = 0; i < blocks; ++i) {
      range.Range<T>::load(range.from + tile * kTile, kTile, Block(sizes, range.first_block + i));
      range.template run<false>(i, kTile, h + i * size, nullptr);
    }
  }
  for (int64_t tile = tiles; tile-- > 0;) {
    const int64_t t = range.from + tile * kTile, steps = std::min(kTile, range.to - t);
    range.start_tile(t, steps);
    for (int64_t i = 0; i < blocks; ++i) {
      const int64_t index = range.first_block + i;
      const Block block(sizes, index);
      if (block.group != range.staged_group)
        for (auto* sums : {&range.grad_B, &range.grad_C}) std::fill_n(sums->data(), steps * size, 0.f);
      range.load(t, steps, block);
      std::copy_n(&checkpoints[(tile * blocks + i) * size], size, range.states.data());
      range.with_constants([&](auto B_constant, auto C_constant) {
        recompute<B_constant, C_constant>(range, steps, range.A_of(i), range.B(i), range.C(i));
        run_adjoint<B_constant, C_constant>(range, i, steps, g + i * size);
      });
      finish_adjoint(range, i, block, steps);
      unstage(range.grad_u.data(), out.u, range.b, t, block, steps);
      unstage(range.grad_delta.data(), out.delta, range.b, t, block, steps);
      if (out.z.data != nullptr) unstage(range.grad_z.data(), out.z, range.b, t, block, steps);
      const bool group_ends = i + 1 == blocks || Block(sizes, index + 1).group != block.group;
      if (!group_ends) continue;
      for (int64_t s = 0; s < steps; ++s) {
        const int64_t offset = partials.offset(index, range.b, range.in.position(t + s), block.group);
        for (int64_t n = 0; n < N; ++n) {
          if (!range.in.B.constant) out.B[offset + n] = sum_lanes(Vec::loadu(&range.grad_B[(s * N + n) * W]));
          if (!range.in.C.constant) out.C[offset + n] = sum_lanes(Vec::loadu(&range.grad_C[(s * N + n) * W]));
        }
      }
    }
  }
}

// Partial sums of A, of constant B and C, of D and delta_bias are [batch][segment]; those of B and C as `Partials` has them.
template <typename T>
void backward(const Inputs<T>& in, const Sequence<const T>& grad_y, const float* grad_last_state, const Plan& plan,
              const Gradients<T>& out) {
  const Sizes& sizes = in.sizes;
  const Partials partials(sizes, plan);
  const int64_t spare = plan.segments > 1 ? plan.segments : 0;
  SegmentStates h(sizes, plan.segments), g(sizes, plan.segments), P(sizes, spare);
  if (plan.segments > 1) {
    plan.for_each_task(sizes, 0, plan.segments, [&](const Task& task) {
      AdjointRange<T> range(in, grad_y, task);
      float *states = h.at(task.b, task.segment, task.first_block);
      summarize_adjoint(range, states, P.at(task.b, task.segment, task.first_block),
                        g.at(task.b, task.segment, task.first_block));
    });
  }
  start_from(h, P, in.initial_state, false);
  start_from(g, P, grad_last_state, true);
  plan.for_each_task(sizes, 0, plan.segments, [&](const Task& task) {
    AdjointRange<T> range(in, grad_y, task);
    backward_range(range, out, partials, h.at(task.b, task.segment, task.first_block),
                   g.at(task.b, task.segment, task.first_block));
    const int64_t row = task.b * plan.segments + task.segment, of_states = row * sizes.dim * sizes.states;
    for (int64_t i = 0; i < task.last_block - task.first_block; ++i) {
      const Block block(sizes, task.first_block + i);
      unstage_states(range.sum_A(i), block, sizes.states, out.A + of_states);
      if (in.B.constant) unstage_states(range.sum_B(i), block, sizes.states, out.B + of_states);
      if (in.C.constant) unstage_states(range.sum_C(i), block, sizes.states, out.C + of_states);
      std::copy_n(range.sum_D(i), block.channels, out.D + row * sizes.dim + block.first);
      std::copy_n(range.sum_bias(i), block.channels, out.delta_bias + row * sizes.dim + block.first);
    }
  });
  store_states(g, 0, out.initial_state);
}

}  // namespace mvc
