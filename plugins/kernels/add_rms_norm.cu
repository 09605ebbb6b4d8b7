// Residual addition and RMS norm on a GPU: a block has a row. Its threads write the sum in a first
// pass and read back what they wrote, so the norm is that of the sum as it was rounded.
#include "add_rms_norm.h"
#include "block_sum.cuh"
#include "cuda_kernels.h"

namespace mamba_export {
namespace cuda {
namespace {

// R: element of the residual stream, T: of the activations; n adjacent channels in one load.
template <class R, class T, int n>
__global__ void __launch_bounds__(kRowThreads) add_and_normalise(AddRMSNormParams p, float share) {
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * p.dim;
  const R* const hidden = static_cast<const R*>(p.hidden) + row;
  const T* const delta = static_cast<const T*>(p.delta) + row;
  R* const hidden_out = static_cast<R*>(p.hidden_out) + row;
  T* const y = static_cast<T*>(p.y) + row;

  const auto dim = static_cast<int>(p.dim);
  float squares = 0;
  for (int d = static_cast<int>(threadIdx.x) * n; d < dim; d += kRowThreads * n) {
    float a[n], b[n];
    load<n>(a, hidden + d);
    load<n>(b, delta + d);
#pragma unroll
    for (int i = 0; i < n; ++i) {
      a[i] = to_float(from_float<R>(a[i] + b[i]));
      squares = fmaf(a[i], a[i], squares);
    }
    store<n>(hidden_out + d, a);
  }
  const float scale = inverse_rms(block_sum(squares), share, p.eps);
  for (int d = static_cast<int>(threadIdx.x) * n; d < dim; d += kRowThreads * n) {
    float a[n], weight[n];
    load<n>(a, hidden_out + d);
    load<n>(weight, p.weight + d);
#pragma unroll
    for (int i = 0; i < n; ++i) a[i] = a[i] * scale * weight[i];
    store<n>(y + d, a);
  }
}

template <class R, class T>
cudaError_t run(const AddRMSNormParams& p, cudaStream_t stream) {
  constexpr int n = kVectorBytes / sizeof(T);
  if (p.dim > kMaxRow) return cudaErrorInvalidValue;
  const bool wide = p.dim % n == 0 && aligned(p.hidden) && aligned(p.delta) && aligned(p.weight) &&
                    aligned(p.y) && aligned(p.hidden_out);
  const auto kernel = wide ? add_and_normalise<R, T, n> : add_and_normalise<R, T, 1>;
  const float share = 1.0f / static_cast<float>(p.dim);
  return launch(kernel, p.dim > 0 ? p.rows : 0, kRowThreads, 0, stream, p, share);
}

}  // namespace
}  // namespace cuda

std::size_t add_rms_norm_workspace(const AddRMSNormParams&) { return 0; }
std::size_t add_rms_norm_most_workspace(const AddRMSNormParams&) { return 0; }

cudaError_t launch_add_rms_norm(const AddRMSNormParams& p, void*, cudaStream_t stream) {
  return cuda::with_element(p.type, [&](auto element) {
    using T = decltype(element);
    return p.residual == p.type ? cuda::run<T, T>(p, stream) : cuda::run<float, T>(p, stream);
  });
}

}  // namespace mamba_export
