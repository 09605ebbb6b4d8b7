// The CUDA kernels by the type of their Params, for adapters of every op.
#pragma once

#include <string>

#include "cuda_kernels.h"

namespace mamba_export {

#define MAMBA_EXPORT_OVERLOADS(Op, kernel)                                                  \
  inline std::size_t workspace_bytes(const Op##Params& p) { return kernel##_workspace(p); } \
  inline std::size_t most_workspace_bytes(const Op##Params& p) {                            \
    return kernel##_most_workspace(p);                                                      \
  }                                                                                         \
  inline cudaError_t launch(const Op##Params& p, void* workspace, cudaStream_t stream) {    \
    return launch_##kernel(p, workspace, stream);                                           \
  }
MAMBA_EXPORT_FOR_EACH_OP(MAMBA_EXPORT_OVERLOADS)
#undef MAMBA_EXPORT_OVERLOADS

template <class Params>
auto forget_lengths(Params& params, int) -> decltype(void(params.seqlens)) {
  params.seqlens = nullptr;
}
template <class Params>
void forget_lengths(Params&, long) {}  // it has none

// Returns what is wrong with the parameters of a launch, or an empty string. The lengths are on the
// device, where the kernels bound them.
template <class Params>
std::string validate_launch(Params params) {
  forget_lengths(params, 0);
  return validate(params);
}

}  // namespace mamba_export
