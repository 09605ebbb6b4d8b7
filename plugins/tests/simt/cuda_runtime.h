// As much of CUDA's runtime and language as the kernels use; see simt.h.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "cuda_runtime_api.h"
#include "simt.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
// One block runs at a time. Thread-local, because such variables lie together, where run_grid finds
// them: GCC ignores the section that a static variable of a template asks for.
#define __shared__ static thread_local

using dim3 = mamba_export::simt::Dim;

struct alignas(8) float2 {
  float x, y;
};

#define threadIdx (mamba_export::simt::here().thread)
#define blockIdx (mamba_export::simt::here().block)

inline void __syncthreads() { mamba_export::simt::block_barrier(); }
inline int __syncthreads_and(int predicate) {
  static bool all;
  __syncthreads();  // all have read the one before
  all = true;
  __syncthreads();
  all = all && predicate != 0;
  __syncthreads();
  return all;
}
inline void __syncwarp(unsigned = 0xffffffffu) { mamba_export::simt::warp_barrier(); }

template <class T>
T __shfl_sync(unsigned, T value, int lane, int width = 32) {
  const int self = static_cast<int>(threadIdx.x) % 32;
  const auto* const bytes =
      static_cast<const unsigned char*>(mamba_export::simt::exchange(&value, sizeof value));
  const int from = self / width * width + (lane & (width - 1));
  T result;
  std::memcpy(&result, bytes + static_cast<std::size_t>(from) * mamba_export::simt::kExchangeBytes,
              sizeof result);
  return result;
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
  return __shfl_sync(mask, value, (static_cast<int>(threadIdx.x) % width) ^ lanes, width);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32) {
  const int lane = static_cast<int>(threadIdx.x) % width;
  const int from = lane - static_cast<int>(by);
  return __shfl_sync(mask, value, from < 0 ? lane : from, width);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) {
  const int lane = static_cast<int>(threadIdx.x) % width;
  const int from = lane + static_cast<int>(by);
  return __shfl_sync(mask, value, from >= width ? lane : from, width);
}

inline int __any_sync(unsigned mask, int predicate) {
  int any = predicate != 0;
  for (int by = 16; by > 0; by /= 2) any |= __shfl_xor_sync(mask, any, by);
  return any;
}

inline int __all_sync(unsigned mask, int predicate) { return !__any_sync(mask, predicate == 0); }

inline float __uint_as_float(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline std::uint32_t __float_as_uint(float value) {
  if (std::isnan(value)) return 0x7fffffffu;  // what arithmetic makes of any
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
inline int __float_as_int(float value) { return static_cast<int>(__float_as_uint(value)); }
inline float __int_as_float(int bits) { return __uint_as_float(static_cast<std::uint32_t>(bits)); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  void* attrs = nullptr;
  unsigned numAttrs = 0;
};

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  mamba_export::simt::run_grid(reinterpret_cast<const void*>(kernel), config->gridDim,
                               config->blockDim, config->dynamicSmemBytes,
                               [&] { kernel(arguments...); });
  return cudaSuccess;
}

template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, cudaFuncAttribute, int bytes) {
  return bytes <= mamba_export::simt::device().shared_bytes ? cudaSuccess : cudaErrorInvalidValue;
}
