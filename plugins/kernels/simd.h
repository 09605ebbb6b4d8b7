// Vectors of float32 for one instruction set. Included by sources that are compiled once per set:
// everything here has internal linkage, because of an external inline function the linker may keep
// the AVX-512 copy for all.
#pragma once

#include <cstdint>

#include "element_type.h"

#if !defined(MAMBA_EXPORT_ISA)
#error "compile with -DMAMBA_EXPORT_ISA=portable, avx2 or avx512"
#endif

#if defined(__AVX512F__) || defined(__AVX2__)
// GCC 12 takes the undefined operands that its own intrinsics pass on for mistakes.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

namespace mamba_export::MAMBA_EXPORT_ISA {
namespace {

#if defined(__AVX512F__)

using Vec = __m512;
using Ints = __m512i;
constexpr int kLanes = 16;
constexpr int kRegisters = 32;

inline Vec load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
inline Vec load(const Float16* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline void store(Float16* p, Vec v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
inline Vec load(const BFloat16* p) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
inline void store(BFloat16* p, Vec v) {
  const Ints bits = _mm512_castps_si512(v);
  const Ints odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const Ints even = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const Ints quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  const Ints rounded = _mm512_mask_mov_epi32(even, nan, quiet);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
}

inline Vec set1(float x) { return _mm512_set1_ps(x); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
// Of a NaN and a bound these return the NaN.
inline Vec at_most(Vec v, float bound) { return _mm512_min_ps(set1(bound), v); }
inline Vec at_least(Vec v, float bound) { return _mm512_max_ps(set1(bound), v); }
inline Vec abs(Vec v) { return _mm512_abs_ps(v); }
inline float sum(Vec v) { return _mm512_reduce_add_ps(v); }

#elif defined(__AVX2__)

using Vec = __m256;
using Ints = __m256i;
constexpr int kLanes = 8;
constexpr int kRegisters = 16;

inline Vec load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
inline Vec load(const Float16* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline void store(Float16* p, Vec v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
inline Vec load(const BFloat16* p) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline void store(BFloat16* p, Vec v) {
  const Ints bits = _mm256_castps_si256(v);
  const Ints odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const Ints even = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const Ints quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const Vec nan = _mm256_cmp_ps(v, v, _CMP_UNORD_Q);
  const Vec rounded = _mm256_blendv_ps(_mm256_castsi256_ps(even), _mm256_castsi256_ps(quiet), nan);
  const Ints halves = _mm256_srli_epi32(_mm256_castps_si256(rounded), 16);
  const Ints packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(halves, halves), 0x08);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
}

inline Vec set1(float x) { return _mm256_set1_ps(x); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
inline Vec at_most(Vec v, float bound) { return _mm256_min_ps(set1(bound), v); }
inline Vec at_least(Vec v, float bound) { return _mm256_max_ps(set1(bound), v); }
inline Vec abs(Vec v) { return _mm256_andnot_ps(set1(-0.0f), v); }
inline float sum(Vec v) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
// 2^n for a vector whose low bits hold the integer n, from -127 (which gives 0) to 127.
inline Vec exponent_of(Vec v) {
  const Ints shifted = _mm256_slli_epi32(_mm256_castps_si256(v), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(shifted, _mm256_set1_epi32(0x3f800000)));
}

#else

typedef float Vec __attribute__((vector_size(16)));
typedef std::uint32_t Ints __attribute__((vector_size(16)));
constexpr int kLanes = 4;
constexpr int kRegisters = 16;

inline float bits_to_float(std::uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}
inline std::uint32_t float_to_bits(float value) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float as_float(BFloat16 x) { return bits_to_float(std::uint32_t{x.bits} << 16); }
inline BFloat16 to_bfloat16(float x) {
  const std::uint32_t bits = float_to_bits(x);
  const std::uint32_t rounded = x != x ? bits | 0x400000u : bits + 0x7fffu + ((bits >> 16) & 1u);
  return {static_cast<std::uint16_t>(rounded >> 16)};
}
inline float as_float(Float16 x) {
  const std::uint32_t sign = (x.bits & 0x8000u) << 16;
  const std::uint32_t rest = x.bits & 0x7fffu;
  if (rest >= 0x7c00u) {  // infinity or NaN, which becomes a quiet one
    return bits_to_float(sign | 0x7f800000u | (rest & 0x3ffu) << 13 |
                         (rest > 0x7c00u ? 0x400000u : 0u));
  }
  if (rest >= 0x400u) return bits_to_float(sign | ((rest << 13) + (112u << 23)));
  const float tiny = static_cast<float>(rest) * 0x1p-24f;  // subnormal
  return sign != 0 ? -tiny : tiny;
}
inline Float16 to_float16(float x) {
  const std::uint32_t bits = float_to_bits(x);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t rest = bits & 0x7fffffffu;
  std::uint32_t half;
  if (rest > 0x7f800000u) {
    half = 0x7e00u | ((rest >> 13) & 0x1ffu);
  } else if (rest >= 0x477ff000u) {
    half = 0x7c00u;  // rounds to infinity
  } else if (rest >= 0x38800000u) {
    half = (rest - (112u << 23) + 0xfffu + ((rest >> 13) & 1u)) >> 13;
  } else {
    // The sum has the half's last place as its own, so that the addition rounds to it.
    half = float_to_bits(bits_to_float(rest) + 0.5f) - 0x3f000000u;
  }
  return {static_cast<std::uint16_t>(sign | half)};
}

inline Vec load(const float* p) {
  Vec v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float* p, Vec v) { __builtin_memcpy(p, &v, sizeof v); }
template <class T>
inline Vec load(const T* p) {
  return Vec{as_float(p[0]), as_float(p[1]), as_float(p[2]), as_float(p[3])};
}
inline void store(Float16* p, Vec v) {
  for (int i = 0; i < kLanes; ++i) p[i] = to_float16(v[i]);
}
inline void store(BFloat16* p, Vec v) {
  for (int i = 0; i < kLanes; ++i) p[i] = to_bfloat16(v[i]);
}

inline Vec set1(float x) { return Vec{x, x, x, x}; }
inline Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
inline Vec at_most(Vec v, float bound) { return v > set1(bound) ? set1(bound) : v; }
inline Vec at_least(Vec v, float bound) { return v < set1(bound) ? set1(bound) : v; }
inline Vec abs(Vec v) { return (Vec)((Ints)v & 0x7fffffffu); }
inline float sum(Vec v) { return (v[0] + v[2]) + (v[1] + v[3]); }
inline Vec exponent_of(Vec v) { return (Vec)(((Ints)v << 23) + 0x3f800000u); }

#endif

inline Vec zero() { return set1(0.0f); }

inline float as_float(float x) { return x; }
#if defined(__F16C__)
inline float as_float(Float16 x) { return _cvtsh_ss(x.bits); }
inline float as_float(BFloat16 x) {
  const std::uint32_t bits = std::uint32_t{x.bits} << 16;
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}
#endif

// Loads the first `count` elements, zero in the other lanes; reads nothing past them.
template <class T>
inline Vec load(const T* p, int count) {
  if (count >= kLanes) return load(p);
  T lanes[kLanes] = {};
  for (int i = 0; i < count; ++i) lanes[i] = p[i];
  return load(lanes);
}

// Stores the first `count` lanes.
template <class T>
inline void store(T* p, Vec v, int count) {
  if (count >= kLanes) return store(p, v);
  T lanes[kLanes];
  store(lanes, v);
  for (int i = 0; i < count; ++i) p[i] = lanes[i];
}

// Returns the first `count` lanes, zero in the others.
inline Vec keep_lanes(Vec v, int count) {
  if (count >= kLanes) return v;
  float lanes[kLanes] = {};
  store(lanes, v, count);
  return load(lanes);
}

}  // namespace
}  // namespace mamba_export::MAMBA_EXPORT_ISA
