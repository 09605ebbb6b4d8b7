// The convolution inside of the step: a block convolves what it needs itself, and B and C of a
// group once for each of its blocks: less work than a launch of its own, if not little. The past
// columns must outlive the blocks that read them, so in place a copy of them comes first.
#include "conv_ssd_state_update.h"
#include "cuda_kernels.h"
#include "ssd_state_update.cuh"

namespace mamba_export {
namespace cuda {
namespace {

constexpr int kMaxWidth = 4;

template <class T>
struct Convolved {
  struct Asked {
    T newest, bias;
    T past[kMaxWidth - 1];
    T weight[kMaxWidth];
  };

  const T *x, *weight, *bias, *conv_state;
  T* conv_state_out;  // not over conv_state: other blocks of the group read that
  std::int64_t channels;
  int width;
  bool activated;

  __device__ __forceinline__ Asked ask(std::int64_t b, unsigned channel) const {
    const std::int64_t at = b * channels + channel;
    Asked asked;
    asked.newest = x[at];
    asked.bias = bias[channel];
#pragma unroll
    for (int k = 0; k < kMaxWidth; ++k) {
      if (k < width) asked.weight[k] = weight[std::int64_t{channel} * width + k];
      if (k < kMaxWidth - 1 && k < width - 1) asked.past[k] = conv_state[at * (width - 1) + k];
    }
    return asked;
  }

  // Rounded as the convolution on its own is.
  __device__ __forceinline__ float take(std::int64_t b, unsigned channel, const Asked& asked,
                                        bool first) const {
    T* const state = conv_state_out + (b * channels + channel) * (width - 1);
    float sum = to_float(asked.bias);
#pragma unroll
    for (int k = 0; k < kMaxWidth; ++k) {
      if (k >= width) continue;
      const T sample = k < kMaxWidth - 1 && k < width - 1 ? asked.past[k] : asked.newest;
      sum = fmaf(to_float(asked.weight[k]), to_float(sample), sum);
      if (first && k > 0) state[k - 1] = sample;
    }
    return to_float(from_float<T>(activated ? silu(sum) : sum));
  }
};

std::size_t state_bytes(const ConvSSDStateUpdateParams& p) {
  return static_cast<std::size_t>(p.batch * p.channels * (p.width - 1)) * size_of(p.type);
}

}  // namespace
}  // namespace cuda

// In place, the past is set aside for the blocks that read it late.
std::size_t conv_ssd_state_update_workspace(const ConvSSDStateUpdateParams& p) {
  return p.conv_state == p.conv_state_out ? cuda::state_bytes(p) : 0;
}
std::size_t conv_ssd_state_update_most_workspace(const ConvSSDStateUpdateParams& p) {
  return cuda::state_bytes(p);
}

cudaError_t launch_conv_ssd_state_update(const ConvSSDStateUpdateParams& p, void* workspace,
                                         cudaStream_t stream) {
  const void* past = p.conv_state;
  if (const std::size_t bytes = conv_ssd_state_update_workspace(p); bytes > 0) {
    const cudaError_t error =
        cudaMemcpyAsync(workspace, past, bytes, cudaMemcpyDeviceToDevice, stream);
    if (error != cudaSuccess) return error;
    past = workspace;
  }
  return cuda::with_element(p.type, [&](auto element) {
    using T = decltype(element);
    const cuda::Convolved<T> feed = {
        static_cast<const T*>(p.x),        static_cast<const T*>(p.weight),
        static_cast<const T*>(p.bias),     static_cast<const T*>(past),
        static_cast<T*>(p.conv_state_out), p.channels,
        static_cast<int>(p.width),         p.silu,
    };
    return cuda::launch_update<T>(recurrence_of(p), nullptr, feed, stream);
  });
}

}  // namespace mamba_export
