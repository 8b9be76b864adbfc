// Exponentials and what is made of them, on vectors of floats. Inlined, since a call would spill the vector registers:
// at::vec's exp() is one, and its exp_u20() makes a number of a NaN.
#pragma once

#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>

#include <cstdint>
#include <limits>

namespace mvc {

using Vec = at::vec::Vectorized<float>;
constexpr int64_t W = Vec::size();
constexpr float kLog2E = 1.44269504088896341f, kLn2 = 0.693147180559945309f;

// Σ coefficients[i] xⁱ.
template <typename... Floats>
inline Vec polynomial(Vec x, float first, Floats... others) {
  if constexpr (sizeof...(others) == 0)
    return Vec(first);
  else
    return at::vec::fmadd(polynomial(x, others...), x, Vec(first));
}

// 2^r for |r| ≤ 1/2; relative error of the polynomial 2e-9, and exactly 1 at 0, where decays multiply up.
inline Vec exp2_of_fraction(Vec r) {
  return polynomial(r, 1.f, kLn2, 0.24022648f, 0.055503324f, 0.0096184369f, 0.0013398875f, 0.00015353362f);
}

// 2^x to a unit in the last place, 0 where it underflows, NaN for NaN.
inline Vec exp2(Vec x) {
#if defined(CPU_CAPABILITY_AVX512)
  constexpr int to_nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  const Vec fraction = _mm512_reduce_ps(x, to_nearest);  // x - round(x), and 0 for an infinite x
  return _mm512_scalef_ps(exp2_of_fraction(fraction), _mm512_roundscale_ps(x, to_nearest));
#else
  x = at::vec::clamp(x, Vec(-127.f), Vec(128.f));
  const Vec shift(12582912.f + 127.f);  // 1.5 * 2^23: the sum's last bits are the rounded x with an exponent's bias
  const Vec shifted = x + shift, fraction = x - (shifted - shift);
  const auto exponent = at::vec::cast<int32_t>(shifted) << at::vec::Vectorized<int32_t>(23);
  return exp2_of_fraction(fraction) * at::vec::cast<float>(exponent);
#endif
}

// e^x for x ≤ 0.
inline Vec exp_of_negative(Vec x) {
  x = at::vec::clamp_min(x, Vec(-104.f));  // e^-104 is 0
  const Vec scaled = x * Vec(kLog2E);
  const Vec lost = at::vec::fmadd(x, Vec(1.925963033e-8f), at::vec::fmsub(x, Vec(kLog2E), scaled));  // by rounding
  const Vec power = exp2(scaled);
  return at::vec::fmadd(power * lost, Vec(kLn2), power);
}

// log(1 + t) for t in [0, 1], as exact for a small t as for a large one.
inline Vec log1p(Vec t) {
  const Vec q = polynomial(t, -0.49999931f, 0.33330512f, -0.24958587f, 0.19695400f, -0.15355395f, 0.10680553f,
                           -0.057664413f, 0.020204568f, -0.0033184686f);
  return at::vec::fmadd(t * t, q, t);
}

// A product of decays that may have underflowed: zero only where the smallest of them is, since a decaying infinite state
// stays infinite.
inline Vec never_vanishing(Vec product, Vec smallest) {
  return Vec::blendv(product, at::vec::maximum(product, Vec(std::numeric_limits<float>::min())), smallest > Vec(0.f));
}

inline Vec softplus(Vec x) { return at::vec::maximum(x, Vec(0.f)) + log1p(exp_of_negative(x.abs().neg())); }

inline Vec sigmoid(Vec x) {
  const Vec t = exp_of_negative(x.abs().neg());
  return Vec::blendv(Vec(1.f), t, x < Vec(0.f)) / (t + Vec(1.f));
}

}  // namespace mvc
