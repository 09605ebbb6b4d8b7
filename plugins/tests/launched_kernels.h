// CUDA kernels as a set for the test programs: every op, launched in one way.
#pragma once

#include "cpu_isa.h"
#include "cuda_launch.h"

namespace mamba_export::testing {

// `Way::run(bytes, launch)` calls `launch(workspace, stream)` with a workspace of that many bytes,
// and waits for what it launched.
template <class Way, class Params>
void run_launched(const Params& p, const ParallelFor&) {
  Way::run(workspace_bytes(p),
           [&](void* workspace, cudaStream_t stream) { return launch(p, workspace, stream); });
}

#define MAMBA_EXPORT_ENTRY(Op, kernel) , run_launched<Way, Op##Params>

template <class Way>
constexpr Kernels kLaunched = {Way::kName MAMBA_EXPORT_FOR_EACH_OP(MAMBA_EXPORT_ENTRY),
                               /*exact=*/false, /*matrices=*/true};

#undef MAMBA_EXPORT_ENTRY

}  // namespace mamba_export::testing
