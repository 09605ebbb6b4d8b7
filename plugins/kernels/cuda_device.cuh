// What the CUDA kernels share: adjacent elements in one load, functions, sums, launches.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "element_type.h"

namespace mamba_export::cuda {
namespace {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr std::size_t kVectorBytes = 16;  // of the widest load

// ---- elements -----------------------------------------------------------------------------------

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(Float16 x) {
  return __half2float(__ushort_as_half(x.bits));
}
__device__ __forceinline__ float to_float(BFloat16 x) {
  return __uint_as_float(static_cast<std::uint32_t>(x.bits) << 16);
}

template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ Float16 from_float<Float16>(float x) {
  return {__half_as_ushort(__float2half_rn(x))};
}
template <>
__device__ __forceinline__ BFloat16 from_float<BFloat16>(float x) {
  return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};
}

// Elements that one load brings; n * sizeof(T) is a power of 2.
template <int n, class T>
struct alignas(n * sizeof(T) < kVectorBytes ? n * sizeof(T) : kVectorBytes) Vector {
  T element[n];
};

// n adjacent elements as float32; `from` is aligned as a Vector is.
template <int n, class T>
__device__ __forceinline__ void load(float (&to)[n], const T* from) {
  const auto raw = *reinterpret_cast<const Vector<n, T>*>(from);
#pragma unroll
  for (int i = 0; i < n; ++i) to[i] = to_float(raw.element[i]);
}

template <int n, class T>
__device__ __forceinline__ void store(T* to, const float (&from)[n]) {
  Vector<n, T> raw;
#pragma unroll
  for (int i = 0; i < n; ++i) raw.element[i] = from_float<T>(from[i]);
  *reinterpret_cast<Vector<n, T>*>(to) = raw;
}

// n adjacent elements, and zeros for those beyond `left`. wide: they are aligned as a Vector is,
// and all or none exist.
template <int n, class T>
__device__ __forceinline__ Vector<n, T> load_some(const T* from, int left, bool wide) {
  Vector<n, T> some{};
  if (wide) {
    if (left > 0) some = *reinterpret_cast<const Vector<n, T>*>(from);
  } else {
#pragma unroll
    for (int i = 0; i < n; ++i) {
      if (i < left) some.element[i] = from[i];
    }
  }
  return some;
}

// ---- functions ----------------------------------------------------------------------------------

constexpr float kLog2E = 0x1.715476p+0f;

// The lesser and the greater of two numbers, and NaN if one is: one instruction, where there is
// one.
__device__ __forceinline__ float at_most(float x, float most) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm("min.NaN.f32 %0, %0, %1;" : "+f"(x) : "f"(most));
  return x;
#else
  return x > most ? most : x;
#endif
}
__device__ __forceinline__ float at_least(float x, float least) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm("max.NaN.f32 %0, %0, %1;" : "+f"(x) : "f"(least));
  return x;
#else
  return x < least ? least : x;
#endif
}

// 2^f for |f| <= 1/2. The decay is applied a million times, so its bias matters as much as its
// error; this is the CPU kernels' polynomial (vector_math.h), with the constant term 1, on the
// units that multiply and add.
__device__ __forceinline__ float exp2_fraction(float f) {
  float p = 1.535336196e-04f;
  p = fmaf(p, f, 1.339887502e-03f);
  p = fmaf(p, f, 9.618436918e-03f);
  p = fmaf(p, f, 5.550332367e-02f);
  p = fmaf(p, f, 2.402264774e-01f);
  p = fmaf(p, f, 6.931471825e-01f);
  return fmaf(p, f, 1.0f);
}

// 2^x for x <= 0, and 0 where that is no normal number.
__device__ __forceinline__ float exp2_of_negative(float x) {
  // Adding it rounds to an integer, which the low bits hold as the exponent's field.
  constexpr float kRound = 0x1.8p23f + 127.0f;
  x = at_least(x, -127.0f);  // there that field is 0, and with it the number
  const float rounded = x + kRound;
  const float f = x - (rounded - kRound);
  return exp2_fraction(f) * __uint_as_float(__float_as_uint(rounded) << 23);
}

// exp(min(dt A, 0)), with A in units of ln 2; a NaN stays one.
__device__ __forceinline__ float decay(float dt, float A) {
  return exp2_of_negative(at_most(dt * A, 0.0f));
}

// The same for -kOrdinaryExponent <= dt A <= 0, where nothing underflows: the product needs no
// rounding of its own, and the power of 2 is added to the exponent's field.
constexpr float kOrdinaryExponent = 125.0f;
__device__ __forceinline__ float ordinary_decay(float dt, float A) {
  constexpr float kRound = 0x1.8p23f;
  const float rounded = fmaf(dt, A, kRound);
  const float f = fmaf(dt, A, kRound - rounded);
  return __uint_as_float(__float_as_uint(exp2_fraction(f)) + (__float_as_uint(rounded) << 23));
}

// The largest |A|, step by step; NaN if decays with one of them are not ordinary for any dt.
__device__ __forceinline__ float faster(float fastest, float A) {
  return A <= 0.0f ? at_least(fastest, -A) : NAN;
}

// 1 / x to within 1 ulp, and 0 where that is no normal number.
__device__ __forceinline__ float reciprocal(float x) {
#ifdef __CUDA_ARCH__
  asm("rcp.approx.ftz.f32 %0, %0;" : "+f"(x));
  return x;
#else
  return x > 0x1p126f ? 0.0f : 1.0f / x;
#endif
}

// log(1 + u) for 0 <= u <= 1, as 2 atanh(u / (2 + u)); the CPU kernels' polynomial.
__device__ __forceinline__ float log1p_fraction(float u) {
  const float s = u * reciprocal(u + 2.0f);
  const float w = s * s;
  float q = 1.215046719e-01f;
  q = fmaf(q, w, 1.071382910e-01f);
  q = fmaf(q, w, 1.430844218e-01f);
  q = fmaf(q, w, 1.999943852e-01f);
  q = fmaf(q, w, 3.333333731e-01f);
  const float twice = s + s;
  return fmaf(twice * w, q, twice);
}

__device__ __forceinline__ float softplus(float x) {
  return at_least(x, 0.0f) + log1p_fraction(expf(-fabsf(x)));
}

__device__ __forceinline__ float silu(float x) { return x * reciprocal(1.0f + expf(-x)); }

// dt as the recurrence uses it, from the input and its bias.
__device__ __forceinline__ float step_size(float dt, float bias, bool dt_softplus) {
  dt += bias;
  return dt_softplus ? softplus(dt) : dt;
}

// A row's valid tokens; the host has not seen the lengths.
__device__ __forceinline__ std::int64_t valid_tokens(const std::int32_t* seqlens, std::int64_t b,
                                                     std::int64_t seqlen) {
  if (seqlens == nullptr) return seqlen;
  const std::int64_t length = seqlens[b];
  return length < 0 ? 0 : length < seqlen ? length : seqlen;
}

// The sum over groups of `lanes` adjacent lanes, in all of them; in the same order everywhere.
template <int lanes>
__device__ __forceinline__ float sum_over(float x) {
#pragma unroll
  for (int by = lanes / 2; by > 0; by /= 2) x += __shfl_xor_sync(kAllLanes, x, by);
  return x;
}

// ---- host ---------------------------------------------------------------------------------------

using mamba_export::with_element;

// Threads of a grid whose index is 32 bits wide: dividing 64 bits takes a call and its registers.
constexpr std::int64_t kMaxItems = 0xffffff00;

constexpr std::int64_t blocks_of(std::int64_t size, std::int64_t block) {
  return (size + block - 1) / block;
}

inline bool aligned(const void* pointer, std::size_t bytes = kVectorBytes) {
  return reinterpret_cast<std::uintptr_t>(pointer) % bytes == 0;
}

// An attribute of the current device; asking does not disturb a capture.
inline cudaError_t device_attribute(cudaDeviceAttr attribute, int* value) {
  int device = 0;
  const cudaError_t error = cudaGetDevice(&device);
  return error == cudaSuccess ? cudaDeviceGetAttribute(value, attribute, device) : error;
}

// More than any device has. Workspaces that must suffice on every device are for so many.
constexpr int kMostProcessors = 256;

// How many multiprocessors a kernel spreads its work over.
inline cudaError_t count_processors(int* processors) {
  const cudaError_t error = device_attribute(cudaDevAttrMultiProcessorCount, processors);
  if (*processors > kMostProcessors) *processors = kMostProcessors;
  return error;
}

// Launches `blocks` blocks of `threads` threads. No blocks are no work.
template <class... Parameters>
cudaError_t launch(void (*kernel)(Parameters...), std::int64_t blocks, int threads,
                   std::size_t shared_bytes, cudaStream_t stream, const Parameters&... arguments) {
  constexpr std::int64_t kMaxBlocks = 0x7fffffff;
  constexpr std::size_t kWithoutAsking = 48 * 1024;
  if (blocks == 0) return cudaSuccess;
  if (blocks > kMaxBlocks) return cudaErrorInvalidValue;
  if (shared_bytes > kWithoutAsking) {
    const cudaError_t error = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
    if (error != cudaSuccess) return error;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = dim3{static_cast<unsigned>(blocks), 1, 1};
  config.blockDim = dim3{static_cast<unsigned>(threads), 1, 1};
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

}  // namespace
}  // namespace mamba_export::cuda
