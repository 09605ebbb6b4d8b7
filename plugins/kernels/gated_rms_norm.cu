// Gated RMS norm on a GPU: a block has one group of channels of a row, reads it twice and gates it
// twice; the second time it comes from the L1 cache.
#include "block_sum.cuh"
#include "cuda_kernels.h"
#include "gated_rms_norm.h"

namespace mamba_export {
namespace cuda {
namespace {

// n adjacent channels in one load.
template <class T, int n, bool kNormBeforeGate>
__global__ void __launch_bounds__(kRowThreads)
    gate_and_normalise(GatedRMSNormParams p, float share) {
  const auto width = static_cast<int>(p.dim / p.ngroups);
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * width;  // of all rows
  const T* const x = static_cast<const T*>(p.x) + first;
  const T* const z = static_cast<const T*>(p.z) + first;
  const float* const weight = p.weight + blockIdx.x % static_cast<unsigned>(p.ngroups) * width;
  T* const y = static_cast<T*>(p.y) + first;

  float squares = 0;
  for (int d = static_cast<int>(threadIdx.x) * n; d < width; d += kRowThreads * n) {
    float v[n], gate[n];
    load<n>(v, x + d);
    if (!kNormBeforeGate) load<n>(gate, z + d);
#pragma unroll
    for (int i = 0; i < n; ++i) {
      if (!kNormBeforeGate) v[i] *= silu(gate[i]);
      squares = fmaf(v[i], v[i], squares);
    }
  }
  const float scale = inverse_rms(block_sum(squares), share, p.eps);
  for (int d = static_cast<int>(threadIdx.x) * n; d < width; d += kRowThreads * n) {
    float v[n], gate[n], w[n];
    load<n>(v, x + d);
    load<n>(gate, z + d);
    load<n>(w, weight + d);
#pragma unroll
    for (int i = 0; i < n; ++i) {
      const float gated = silu(gate[i]);
      v[i] = kNormBeforeGate ? v[i] * scale * w[i] * gated : v[i] * gated * scale * w[i];
    }
    store<n>(y + d, v);
  }
}

template <class T, int n>
cudaError_t run(const GatedRMSNormParams& p, cudaStream_t stream) {
  const auto kernel =
      p.norm_before_gate ? gate_and_normalise<T, n, true> : gate_and_normalise<T, n, false>;
  const float share = static_cast<float>(p.ngroups) / static_cast<float>(p.dim);
  return launch(kernel, p.dim > 0 ? p.rows * p.ngroups : 0, kRowThreads, 0, stream, p, share);
}

template <class T>
cudaError_t choose_vector(const GatedRMSNormParams& p, cudaStream_t stream) {
  constexpr int n = kVectorBytes / sizeof(T);
  if (p.dim > kMaxRow) return cudaErrorInvalidValue;
  const bool wide = p.dim / p.ngroups % n == 0 && aligned(p.x) && aligned(p.z) &&
                    aligned(p.weight) && aligned(p.y);
  return wide ? run<T, n>(p, stream) : run<T, 1>(p, stream);
}

}  // namespace
}  // namespace cuda

std::size_t gated_rms_norm_workspace(const GatedRMSNormParams&) { return 0; }
std::size_t gated_rms_norm_most_workspace(const GatedRMSNormParams&) { return 0; }

cudaError_t launch_gated_rms_norm(const GatedRMSNormParams& p, void*, cudaStream_t stream) {
  return cuda::with_element(
      p.type, [&](auto element) { return cuda::choose_vector<decltype(element)>(p, stream); });
}

}  // namespace mamba_export
