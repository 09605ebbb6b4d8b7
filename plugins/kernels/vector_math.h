// exp, softplus and SiLU on vectors. The decay of a recurrence is applied a million times, so a
// bias of its exp matters as much as its error: the polynomials are minimax fits whose constant
// term is exactly 1. plugins/tests/math_test.cpp measures both, exhaustively.
#pragma once

#include "simd.h"

namespace mamba_export::MAMBA_EXPORT_ISA {
namespace {

constexpr float kLog2E = 0x1.715476p+0f;
constexpr float kLog2ERest = 0x1.4ae0c0p-26f;  // log2(e) - kLog2E

// 2^f for |f| <= 1/2: relative error 1.6e-8 before rounding.
inline Vec exp2_fraction(Vec f) {
  Vec p = set1(1.535336196e-04f);
  p = fma(p, f, set1(1.339887502e-03f));
  p = fma(p, f, set1(9.618436918e-03f));
  p = fma(p, f, set1(5.550332367e-02f));
  p = fma(p, f, set1(2.402264774e-01f));
  p = fma(p, f, set1(6.931471825e-01f));
  return fma(p, f, set1(1.0f));
}

#if defined(__AVX512F__)

inline Vec round_to_int(Vec x) {
  return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

inline Vec scale(Vec p, Vec n) { return _mm512_scalef_ps(p, n); }

// 2^x for x <= 0.
inline Vec exp2_of_negative(Vec x) {
  // The reduction gives 0 for an infinity, so that 2^-inf is 0 and not NaN.
  const Vec f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  return scale(exp2_fraction(f), x - f);
}

#else

// Adding this to a small number rounds it to an integer, which then stands in the low bits.
constexpr float kRound = 0x1.8p23f;

inline Vec round_to_int(Vec x) { return (x + set1(kRound)) - set1(kRound); }

// p * 2^n in two steps, because 2^n itself may be no normal number.
inline Vec scale(Vec p, Vec n) {
  const Vec half = round_to_int(n * set1(0.5f));
  return p * exponent_of(half + set1(kRound)) * exponent_of((n - half) + set1(kRound));
}

// 2^x for x <= 0, and 0 where that is no normal number.
inline Vec exp2_of_negative(Vec x) {
  x = at_least(x, -127.0f);  // there the exponent's field is 0, and with it the number
  const Vec rounded = x + set1(kRound);
  return exp2_fraction(x - (rounded - set1(kRound))) * exponent_of(rounded);
}

#endif

// e^x for any x, to within 1.6 ulp.
inline Vec exp(Vec x) {
  x = at_least(at_most(x, 90.0f), -105.0f);
  const Vec n = round_to_int(x * set1(kLog2E));
#if defined(__FMA__)
  // The first product is exact inside its fma; the second adds what log2(e) lost by rounding.
  const Vec f = fma(x, set1(kLog2ERest), fma(x, set1(kLog2E), -n));
#else
  // ln 2 in two parts, the first short enough that its product with n is exact.
  const Vec f = ((x - n * set1(0x1.63p-1f)) + n * set1(0x1.bd0106p-13f)) * set1(kLog2E);
#endif
  return scale(exp2_fraction(f), n);
}

// log(1 + u) for 0 <= u <= 1, as 2 atanh(u / (2 + u)).
inline Vec log1p(Vec u) {
  const Vec s = u / (u + set1(2.0f));
  const Vec w = s * s;
  Vec q = set1(1.215046719e-01f);
  q = fma(q, w, set1(1.071382910e-01f));
  q = fma(q, w, set1(1.430844218e-01f));
  q = fma(q, w, set1(1.999943852e-01f));
  q = fma(q, w, set1(3.333333731e-01f));
  const Vec twice = s + s;
  return fma(twice * w, q, twice);
}

// log(1 + e^x), to within 3 ulp.
inline Vec softplus(Vec x) { return at_least(x, 0.0f) + log1p(exp(-abs(x))); }

// x / (1 + e^-x), to within 3 ulp.
inline Vec silu(Vec x) { return x / (set1(1.0f) + exp(-x)); }

}  // namespace
}  // namespace mamba_export::MAMBA_EXPORT_ISA
