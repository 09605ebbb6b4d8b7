// The convolution on a GPU. A thread has a few adjacent channels, as many as one load brings, and
// walks over a segment of the sequence with the last K-1 tokens in registers: every sample comes
// from memory once, but for K-1 at the seam of two segments.
#include <cstring>
#include <type_traits>

#include "causal_conv1d.h"
#include "cuda_device.cuh"
#include "cuda_kernels.h"

namespace mamba_export {
namespace cuda {
namespace {

constexpr int kThreads = 64;           // of a block: small ones share out evenly
constexpr int kBlocks = 6;             // of a multiprocessor, at least
constexpr int kAhead = 8;              // tokens that are on their way before they are needed
constexpr std::int64_t kSegment = 32;  // tokens; longer means fewer threads, shorter more seams

struct Conv {
  CausalConv1dParams p;
  unsigned vectors;   // of channels
  unsigned segments;  // of a row
};

// n adjacent elements as they lie in memory: halves of registers, until they are needed.
template <int n, class T>
using Packed = std::conditional_t<(n > 1), Vector<n * sizeof(T) / 4, std::uint32_t>, Vector<1, T>>;

template <int n, class T>
__device__ __forceinline__ void unpack(float (&to)[n], const Packed<n, T>& from) {
  Vector<n, T> elements;
  std::memcpy(&elements, &from, sizeof elements);
#pragma unroll
  for (int i = 0; i < n; ++i) to[i] = to_float(elements.element[i]);
}

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

template <int n, int k, class T>
__device__ __forceinline__ void store_rows(T* to, const float (&from)[n][k]) {
  if constexpr (n * sizeof(T) == kVectorBytes) {
    float row[n * k];
#pragma unroll
    for (int i = 0; i < n * k; ++i) row[i] = from[i / k][i % k];
    store<n * k>(to, row);
  } else {
    static_assert(n == 1);
    for (int i = 0; i < k; ++i) to[i] = from_float<T>(from[0][i]);
  }
}

// n adjacent channels from c on, filters of width K.
template <class T, int n, int K, bool kSilu>
__global__ void __launch_bounds__(kThreads, kBlocks) convolve(Conv conv) {
  const CausalConv1dParams& p = conv.p;
  unsigned item = blockIdx.x * kThreads + threadIdx.x;
  const std::int64_t c = std::int64_t{item % conv.vectors} * n;
  item /= conv.vectors;
  const std::int64_t first = item % conv.segments * kSegment;
  const std::int64_t b = item / conv.segments;
  if (b >= p.batch) return;

  const std::int64_t length = valid_tokens(p.seqlens, b, p.seqlen);
  const T* const x = static_cast<const T*>(p.x) + b * p.seqlen * p.channels + c;

  const std::int64_t end = first + kSegment < p.seqlen ? first + kSegment : p.seqlen;

  // All loads are on their way before the first of them is needed.
  Packed<n, T> next[kAhead];
  const auto fetch = [&](int k, std::int64_t t) {
    if (t < end) next[k] = *reinterpret_cast<const Packed<n, T>*>(x + t * p.channels);
  };
#pragma unroll
  for (int k = 0; k < kAhead; ++k) fetch(k, first + k);
  float weight[n][K], bias[n];
  load_rows(weight, static_cast<const T*>(p.weight) + c * K);
  load<n>(bias, static_cast<const T*>(p.bias) + c);

  float past[n][K - 1];
  if (first == 0) {
    // Nobody else reads this state, so this thread may also write it.
    const std::int64_t row = (b * p.channels + c) * (K - 1);
    load_rows(past, static_cast<const T*>(p.conv_state) + row);
    float state[n][K - 1];
#pragma unroll
    for (int k = 0; k < K - 1; ++k) {
      const std::int64_t t = length - (K - 1) + k;
      float column[n] = {};
      if (t >= 0) load<n>(column, x + t * p.channels);
#pragma unroll
      for (int i = 0; i < n; ++i) {
        state[i][k] = column[i];
        // A sequence shorter than the window leaves some of what was there.
#pragma unroll
        for (int j = 0; j < K - 1; ++j) state[i][k] = t + K - 1 == j ? past[i][j] : state[i][k];
      }
    }
    store_rows(static_cast<T*>(p.conv_state_out) + row, state);
  } else {
#pragma unroll
    for (int k = 0; k < K - 1; ++k) {
      float column[n];
      load<n>(column, x + (first - (K - 1) + k) * p.channels);
#pragma unroll
      for (int i = 0; i < n; ++i) past[i][k] = column[i];
    }
  }

  T* const y = static_cast<T*>(p.y) + b * p.seqlen * p.channels + c;
  for (std::int64_t t = first; t < end; t += kAhead) {
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (t + k >= end) return;
      float newest[n], out[n];
      unpack<n, T>(newest, next[k]);
      fetch(k, t + k + kAhead);
#pragma unroll
      for (int i = 0; i < n; ++i) {
        float sum = bias[i];
#pragma unroll
        for (int j = 0; j < K - 1; ++j) sum = fmaf(weight[i][j], past[i][j], sum);
        sum = fmaf(weight[i][K - 1], newest[i], sum);
#pragma unroll
        for (int j = 0; j + 1 < K - 1; ++j) past[i][j] = past[i][j + 1];
        past[i][K - 2] = newest[i];
        out[i] = kSilu ? silu(sum) : sum;
      }
      store<n>(y + (t + k) * p.channels, out);
    }
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
                    aligned(p.conv_state) && aligned(p.y) && aligned(p.conv_state_out);
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
