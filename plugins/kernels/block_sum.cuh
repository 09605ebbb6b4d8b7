// What the norms share: the sum of a block's threads, and what becomes of it.
#pragma once

#include "cuda_device.cuh"

namespace mamba_export::cuda {
namespace {

constexpr int kRowThreads = 256;
constexpr std::int64_t kMaxRow = 0x7fffffff - 8 * kRowThreads;  // positions are 32 bits wide

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

// 1 / sqrt(squares * share + eps); `share` is 1 over the number of squares.
__device__ __forceinline__ float inverse_rms(float squares, float share, float eps) {
  const float x = fmaf(squares, share, eps);
  // A root that is correctly rounded takes a call, and its registers; this one, and a step of
  // Newton's method, do not.
  const float root = rsqrtf(x);
  const float better = fmaf(0.5f * root, fmaf(-x * root, root, 1.0f), root);
  return x > 0.0f && x < INFINITY ? better : root;
}

}  // namespace
}  // namespace mamba_export::cuda
