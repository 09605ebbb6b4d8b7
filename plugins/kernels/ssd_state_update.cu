// The step on its own: x, B and C lie in memory, each in its own.
#include "cuda_kernels.h"
#include "ssd_state_update.cuh"

namespace mamba_export {
namespace cuda {
namespace {

template <class T>
struct Dense {
  using Asked = T;

  const T *x, *B, *C;
  unsigned inner;  // channels of x
  unsigned keys;   // of B and of C

  __device__ __forceinline__ T ask(std::int64_t b, unsigned channel) const {
    if (channel < inner) return x[b * inner + channel];
    channel -= inner;
    return channel < keys ? B[b * keys + channel] : C[b * keys + channel - keys];
  }
  __device__ __forceinline__ float take(std::int64_t, unsigned, T asked, bool) const {
    return to_float(asked);
  }
};

}  // namespace

cudaError_t update_state(const SSDStateUpdateParams& p, const std::int32_t* seqlens,
                         cudaStream_t stream) {
  return with_element(p.type, [&](auto element) {
    using T = decltype(element);
    const Dense<T> feed = {static_cast<const T*>(p.x), static_cast<const T*>(p.B),
                           static_cast<const T*>(p.C), static_cast<unsigned>(p.nheads * p.headdim),
                           static_cast<unsigned>(p.ngroups * p.dstate)};
    return launch_update<T>(p, seqlens, feed, stream);
  });
}

}  // namespace cuda

std::size_t ssd_state_update_workspace(const SSDStateUpdateParams&) { return 0; }
std::size_t ssd_state_update_most_workspace(const SSDStateUpdateParams&) { return 0; }

cudaError_t launch_ssd_state_update(const SSDStateUpdateParams& p, void*, cudaStream_t stream) {
  return cuda::update_state(p, nullptr, stream);
}

}  // namespace mamba_export
