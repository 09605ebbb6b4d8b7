#include "cuda_kernels.h"
namespace mamba_export {
#define S(Op, kernel)                                                   \
  std::size_t kernel##_workspace(const Op##Params&) { return 0; }       \
  cudaError_t launch_##kernel(const Op##Params&, void*, cudaStream_t) { \
    return cudaErrorNotSupported;                                       \
  }
S(SelectiveScan, selective_scan)
S(SelectiveStateUpdate, selective_state_update)
}  // namespace mamba_export
