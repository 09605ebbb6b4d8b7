// What the norms share: the sum of a block's threads, and what becomes of it.
#pragma once

#include "cuda_device.cuh"

namespace mamba_export::cuda {
namespace {

constexpr int kRowThreads = 256;

// The sum over the block's kRowThreads threads, in all of them.
__device__ __forceinline__ float block_sum(float x) {
  __shared__ float sums[kRowThreads / kWarp];
  x = sum_over<kWarp>(x);
  if (threadIdx.x % kWarp == 0) sums[threadIdx.x / kWarp] = x;
  __syncthreads();
  float total = 0;
#pragma unroll
  for (int i = 0; i < kRowThreads / kWarp; ++i) total += sums[i];
  return total;
}

// 1 / sqrt(mean + eps), from the sum of `size` squares.
__device__ __forceinline__ float inverse_rms(float squares, std::int64_t size, float eps) {
  return 1.0f / sqrtf(squares / static_cast<float>(size) + eps);
}

}  // namespace
}  // namespace mamba_export::cuda
