// h_t = a_t h_{t-1} + b_t, elementwise along one axis of tensors of any strides.
//
// TensorIterator walks over all other axes, merged and shared out among the threads; one of its rows is the lanes of a
// recurrence, which are read in tiles as the scan reads its channels. Complex lanes run in place.
#pragma once

#include <ATen/TensorIterator.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/util/complex.h>

#include <array>
#include <optional>
#include <type_traits>
#include <vector>

#include "tiles.h"

namespace mvc {

constexpr int64_t kWideStrip = 256;  // blocks run at a time where nothing is staged: long rows, states still in the cache

template <typename T>
using State = std::conditional_t<c10::is_complex<T>::value, T, float>;

// Lanes with all of their steps.
template <typename T>
struct Recurrence {
  Sequence<const T> a, b;
  Sequence<T> h;
  const State<T>* initial;
  int64_t initial_lane, length, lanes;

  bool along_steps() const { return h.channel != 1; }
  bool in_place() const {
    auto beside_or_same = [](int64_t lane) { return lane == 0 || lane == 1; };
    return !along_steps() && beside_or_same(a.channel) && beside_or_same(b.channel);
  }
};

struct Staging {
  Buffer a{kStrip * kTile * W}, b{kStrip * kTile * W}, h{kTile * W}, states{kWideStrip * W};
};

// A strip of a or b: in place where its lanes are side by side or all the same, else staged.
template <typename T>
class Operand {
 public:
  Operand(const Sequence<const T>& from, const Sizes& sizes, const Strip& strip, float* staged)
      : step_(from.step), same_(from.channel == 0) {
    if (same_ || (strip.full && from.channel == 1))
      data_ = from.at(strip.b, strip.t, strip.first_block * W);
    else
      staged_ = read_rows(from, sizes, strip, staged);
  }
  C10_ALWAYS_INLINE Vec at(int64_t j, int64_t s) const {
    if (data_ == nullptr) return staged_.at(j, s);
    return same_ ? Vec(static_cast<float>(data_[s * step_])) : load_floats(data_ + s * step_ + j * W);
  }

 private:
  const T* data_ = nullptr;
  int64_t step_;
  bool same_;
  Rows staged_;
};

// Writes a block [step][lane] where the steps of each lane are side by side, up or down: the inverse of
// `stage_transposed`.
template <typename T>
void write_transposed(const float* block, const Sequence<T>& to, const Strip& strip, int64_t first, int64_t lanes) {
  alignas(64) float rows[W * kTile];
  const bool down = to.step < 0;
  const int64_t begin = down ? kTile - strip.steps : 0, end = begin + strip.steps;
  for (int64_t m = begin / W * W; m < end; m += W)
    at::vec::transpose_mxn<float, W, W>(block + (down ? kTile - 1 - m : m) * W, down ? -W : W, &rows[m], kTile);
  for (int64_t c = 0; c < lanes; ++c) {
    T* row = to.at(0, strip.t, first + c) - (down ? kTile - 1 : 0);
    int64_t m = begin;
    for (; m + W <= end; m += W) store_floats(Vec::loadu(&rows[c * kTile + m]), row + m);
    for (; m < end; ++m) row[m] = static_cast<T>(rows[c * kTile + m]);
  }
}

// One tile of a strip; the states, [lane], are those before it and become those after it.
template <typename T>
void run_tile(const Recurrence<T>& x, const Sizes& sizes, const Strip& strip, const Strip& next, Staging& staging) {
  const Operand<T> a(x.a, sizes, strip, staging.a), b(x.b, sizes, strip, staging.b);
  float *states = staging.states, *staged = staging.h;
  if (!x.along_steps()) {
    write_rows(x.h, sizes, strip, [&](int64_t j, int64_t s) {
      const Vec state = at::vec::fmadd(a.at(j, s), Vec::loadu(states + j * W), b.at(j, s));
      state.store(states + j * W);
      return state;
    });
    return;
  }
  const Block block(sizes, strip.first_block);
  const Ahead ahead[] = {Ahead::of(x.a, sizes, next, 0), Ahead::of(x.b, sizes, next, 0), Ahead::of(x.h, sizes, next, 0)};
  Vec state = Vec::loadu(states);
  for (int64_t s = 0; s < strip.steps; ++s) {
    for (const Ahead& lines : ahead) lines.fetch(s);
    state = at::vec::fmadd(a.at(0, s), state, b.at(0, s));
    state.store(staged + s * W);
  }
  state.store(states);
  write_transposed(staged, x.h, strip, block.first, block.channels);
}

template <typename T>
void run_lanes(const Recurrence<T>& x, Staging& staging) {
  const Sizes sizes{1, x.length, x.lanes, 1, 1};
  const int64_t whole = x.lanes / W, wide = x.along_steps() ? 1 : x.in_place() ? kWideStrip : kStrip;
  int64_t blocks;
  for (int64_t i = 0; i < sizes.blocks(); i += blocks) {
    const bool full = i < whole;
    blocks = full ? std::min(wide, whole - i) : 1;
    for (int64_t c = i * W; c < (i + blocks) * W; ++c)
      staging.states[c - i * W] = c < x.lanes ? x.initial[c * x.initial_lane] : 0.f;
    auto strip_at = [&](int64_t t) { return Strip{0, t, std::min(kTile, x.length - t), i, blocks, full}; };
    for (int64_t t = 0; t < x.length; t += kTile)
      run_tile(x, sizes, strip_at(t), strip_at(std::min(t + kTile, x.length - 1)), staging);
  }
}

constexpr int64_t kComplexLanes = 256;  // run at a time where they are neighbours, their states still in the cache

template <typename T>
void run_lanes(const Recurrence<T>& x, std::array<T, kComplexLanes>& states) {
  // Where steps are neighbours, each lane has cache lines of its own.
  const int64_t wide = x.along_steps() ? 8 : kComplexLanes;
  for (int64_t first = 0; first < x.lanes; first += wide) {
    const int64_t count = std::min(wide, x.lanes - first);
    for (int64_t c = 0; c < count; ++c) states[c] = x.initial[(first + c) * x.initial_lane];
    for (int64_t t = 0; t < x.length; ++t) {
      const auto *a = x.a.at(0, t, first), *b = x.b.at(0, t, first);
      auto* h = x.h.at(0, t, first);
      for (int64_t c = 0; c < count; ++c)
        h[c * x.h.channel] = states[c] = a[c * x.a.channel] * states[c] + b[c * x.b.channel];
    }
  }
}

template <typename T>
using Scratch = std::conditional_t<c10::is_complex<T>::value, std::array<State<T>, kComplexLanes>, Staging>;

inline std::vector<int64_t> broadcast_shape(const at::Tensor& a, const at::Tensor& b) {
  std::vector<int64_t> shape(std::max(a.dim(), b.dim()), 1);
  for (const auto& t : {a, b})
    for (int64_t i = 1; i <= t.dim(); ++i)
      if (auto& size = shape[shape.size() - i]; size == 1) size = t.size(-i);
  auto fits = [&](const at::Tensor& t) {
    for (int64_t i = 1; i <= t.dim(); ++i)
      if (t.size(-i) != 1 && t.size(-i) != shape[shape.size() - i]) return false;
    return true;
  };
  TORCH_CHECK_VALUE(fits(a) && fits(b), "a and b must broadcast against each other, got shapes ", a.sizes(), " and ",
                    b.sizes());
  return shape;
}

// In the states' dtype.
inline at::Tensor checked_initial(const std::optional<at::Tensor>& initial, at::IntArrayRef shape, at::ScalarType dtype) {
  if (!initial) return at::zeros({}, dtype).expand(shape);
  const int64_t missing = shape.size() - initial->dim();
  bool fits = true;
  for (int64_t i = 0; fits && i < initial->dim(); ++i)
    fits = initial->size(i) == 1 || initial->size(i) == shape[missing + i];
  TORCH_CHECK_VALUE(fits, "initial must broadcast to ", shape, ", the shape of a and b without dim; got shape ",
                    initial->sizes());
  return initial->to(dtype).expand(shape);
}

// `h` is as large as a and b broadcast, which have its dtype T.
template <typename T>
void run_recurrence(const at::Tensor& h, const at::Tensor& a, const at::Tensor& b, const at::Tensor& initial, int64_t dim,
                    bool reverse) {
  const int64_t length = h.size(dim), first = reverse ? length - 1 : 0, direction = reverse ? -1 : 1;
  const int64_t h_step = direction * h.stride(dim), a_step = direction * a.stride(dim), b_step = direction * b.stride(dim);
  auto lanes = at::TensorIteratorConfig()
                   .set_check_mem_overlap(false)
                   .check_all_same_dtype(false)
                   .resize_outputs(false)
                   .declare_static_shape(initial.sizes())
                   .add_owned_output(h.select(dim, first))
                   .add_owned_const_input(a.select(dim, first))
                   .add_owned_const_input(b.select(dim, first))
                   .add_owned_const_input(initial)
                   .build();
  auto run = [&](char** data, const int64_t* strides, int64_t count, int64_t rows) {
    Scratch<T> scratch;
    for (int64_t row = 0; row < rows; ++row) {
      auto at = [&](int64_t i) { return data[i] + row * strides[4 + i]; };
      constexpr int64_t size = sizeof(T);
      run_lanes(Recurrence<T>{{reinterpret_cast<const T*>(at(1)), 0, a_step, strides[1] / size},
                              {reinterpret_cast<const T*>(at(2)), 0, b_step, strides[2] / size},
                              {reinterpret_cast<T*>(at(0)), 0, h_step, strides[0] / size},
                              reinterpret_cast<const State<T>*>(at(3)),
                              strides[3] / int64_t{sizeof(State<T>)},
                              length,
                              count},
                scratch);
    }
  };
  lanes.for_each(run, std::max(W, (1 << 15) / length));
}

}  // namespace mvc
