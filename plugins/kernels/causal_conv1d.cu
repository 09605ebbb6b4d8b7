// The convolution on a GPU. A thread has a few adjacent channels, as many as one load brings, and
// walks over a segment of the sequence with the last K-1 tokens in registers: every sample comes
// from memory once, but for K-1 at the seam of two segments.
#include "causal_conv1d.h"
#include "cuda_device.cuh"
#include "cuda_kernels.h"

namespace mamba_export {
namespace cuda {
namespace {

constexpr int kThreads = 128;
constexpr std::int64_t kSegment = 32;  // tokens; longer means fewer threads, shorter more seams

struct Conv {
  CausalConv1dParams p;
  unsigned vectors;   // of channels
  unsigned segments;  // of a row
};

// What n adjacent channels have k of each, one channel after the other.
template <int n, int k, class T>
__device__ __forceinline__ void load_rows(float (&to)[n][k], const T* from) {
  if constexpr (n * sizeof(T) == kVectorBytes) {
    load<n * k>(reinterpret_cast<float (&)[n * k]>(to), from);
  } else {
    static_assert(n == 1);
    for (int i = 0; i < k; ++i) to[0][i] = to_float(from[i]);
  }
}

// n adjacent channels from c on, filters of width K.
template <class T, int n, int K, bool kSilu>
__global__ void __launch_bounds__(kThreads) convolve(Conv conv) {
  const CausalConv1dParams& p = conv.p;
  unsigned item = blockIdx.x * kThreads + threadIdx.x;
  const std::int64_t c = std::int64_t{item % conv.vectors} * n;
  item /= conv.vectors;
  const std::int64_t first = item % conv.segments * kSegment;
  const std::int64_t b = item / conv.segments;
  if (b >= p.batch) return;

  const std::int64_t length = valid_tokens(p.seqlens, b, p.seqlen);
  const T* const x = static_cast<const T*>(p.x) + b * p.seqlen * p.channels + c;

  float past[n][K - 1];
  if (first == 0) {
    // Nobody else reads this state, so this thread may also write it.
    load_rows(past, static_cast<const T*>(p.conv_state) + (b * p.channels + c) * (K - 1));
    T* const state = static_cast<T*>(p.conv_state_out) + (b * p.channels + c) * (K - 1);
#pragma unroll
    for (int k = 0; k < K - 1; ++k) {
      const std::int64_t t = length - (K - 1) + k;
      float column[n] = {};
      if (t >= 0) load<n>(column, x + t * p.channels);
#pragma unroll
      for (int i = 0; i < n; ++i) {
        // A sequence shorter than the window leaves some of what was there.
#pragma unroll
        for (int j = 0; j < K - 1; ++j) column[i] = t + K - 1 == j ? past[i][j] : column[i];
        state[i * (K - 1) + k] = from_float<T>(column[i]);
      }
    }
  } else {
#pragma unroll
    for (int k = 0; k < K - 1; ++k) {
      float column[n];
      load<n>(column, x + (first - (K - 1) + k) * p.channels);
#pragma unroll
      for (int i = 0; i < n; ++i) past[i][k] = column[i];
    }
  }

  float weight[n][K], bias[n];
  load_rows(weight, static_cast<const T*>(p.weight) + c * K);
  load<n>(bias, static_cast<const T*>(p.bias) + c);

  T* const y = static_cast<T*>(p.y) + b * p.seqlen * p.channels + c;
  const std::int64_t end = first + kSegment < p.seqlen ? first + kSegment : p.seqlen;
  for (std::int64_t t = first; t < end; ++t) {
    float newest[n], out[n];
    load<n>(newest, x + t * p.channels);
#pragma unroll
    for (int i = 0; i < n; ++i) {
      float sum = bias[i];
#pragma unroll
      for (int k = 0; k < K - 1; ++k) sum = fmaf(weight[i][k], past[i][k], sum);
      sum = fmaf(weight[i][K - 1], newest[i], sum);
#pragma unroll
      for (int k = 0; k + 1 < K - 1; ++k) past[i][k] = past[i][k + 1];
      past[i][K - 2] = newest[i];
      out[i] = kSilu ? silu(sum) : sum;
    }
    store<n>(y + t * p.channels, out);
  }
}

template <class T, int n, int K>
cudaError_t run(const CausalConv1dParams& p, cudaStream_t stream) {
  // A row of no tokens has a segment too: it hands the state on.
  const std::int64_t segments = p.seqlen > 0 ? blocks_of(p.seqlen, kSegment) : 1;
  const std::int64_t vectors = p.channels / n;
  const std::int64_t items = p.batch * segments * vectors;
  if (items > kMaxItems) return cudaErrorInvalidValue;
  const Conv conv = {p, static_cast<unsigned>(vectors), static_cast<unsigned>(segments)};
  const auto kernel = p.silu ? convolve<T, n, K, true> : convolve<T, n, K, false>;
  return launch(kernel, blocks_of(items, kThreads), kThreads, 0, stream, conv);
}

template <class T, int n>
cudaError_t choose_width(const CausalConv1dParams& p, cudaStream_t stream) {
  if (p.width == 4) return run<T, n, 4>(p, stream);
  if (p.width == 3) return run<T, n, 3>(p, stream);
  return run<T, n, 2>(p, stream);
}

template <class T>
cudaError_t choose_vector(const CausalConv1dParams& p, cudaStream_t stream) {
  constexpr int n = kVectorBytes / sizeof(T);
  const bool wide = p.channels % n == 0 && aligned(p.x) && aligned(p.weight) && aligned(p.bias) &&
                    aligned(p.conv_state) && aligned(p.y);
  return wide ? choose_width<T, n>(p, stream) : choose_width<T, 1>(p, stream);
}

}  // namespace
}  // namespace cuda

std::size_t causal_conv1d_workspace(const CausalConv1dParams&) { return 0; }
std::size_t causal_conv1d_most_workspace(const CausalConv1dParams&) { return 0; }
std::size_t causal_conv1d_update_workspace(const CausalConv1dUpdateParams&) { return 0; }
std::size_t causal_conv1d_update_most_workspace(const CausalConv1dUpdateParams&) { return 0; }

cudaError_t launch_causal_conv1d(const CausalConv1dParams& p, void*, cudaStream_t stream) {
  return cuda::with_element(
      p.type, [&](auto element) { return cuda::choose_vector<decltype(element)>(p, stream); });
}

cudaError_t launch_causal_conv1d_update(const CausalConv1dUpdateParams& p, void* workspace,
                                        cudaStream_t stream) {
  CausalConv1dParams sequence;
  static_cast<CausalConv1dUpdateParams&>(sequence) = p;
  sequence.seqlen = 1;  // without lengths, it is all valid
  return launch_causal_conv1d(sequence, workspace, stream);
}

}  // namespace mamba_export
