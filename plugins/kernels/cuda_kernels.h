// The CUDA kernels. All are safe to capture in a CUDA graph: they allocate nothing, wait for
// nothing, and read nothing of the device on the host. Which kernels run, and how many threads,
// follows from the sizes, the types, the device, and where the operands lie: how they are aligned,
// and whether a new state lies over the old one.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "cpu_isa.h"

namespace mamba_export {

// launch_selective_scan(params, workspace, stream) and so on: puts an op on a stream of the current
// device, with all operands there. The parameters are valid; lengths outside 0 to T count as the
// nearest of these. Returns what the launch said.
//
// selective_scan_workspace(params): bytes that `workspace` must have, aligned to 16; their content
// does not matter.
//
// selective_scan_most_workspace(params): bytes that suffice on every device for every batch and
// every sequence up to those of the parameters. A short batch may need more than a long one.
#define MAMBA_EXPORT_LAUNCH(Op, kernel)                     \
  std::size_t kernel##_workspace(const Op##Params& p);      \
  std::size_t kernel##_most_workspace(const Op##Params& p); \
  cudaError_t launch_##kernel(const Op##Params& p, void* workspace, cudaStream_t stream);
MAMBA_EXPORT_FOR_EACH_OP(MAMBA_EXPORT_LAUNCH)
#undef MAMBA_EXPORT_LAUNCH

}  // namespace mamba_export
