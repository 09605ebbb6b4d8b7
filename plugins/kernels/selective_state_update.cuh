// A sequence of one token, for the scan.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "selective_scan.h"

namespace mamba_export::cuda {

// Puts one token on a stream; with seqlens [B] on the device, a row of length 0 hands its state on.
cudaError_t launch_one_token(const SelectiveStateUpdateParams& p, const std::int32_t* seqlens,
                             cudaStream_t stream);

}  // namespace mamba_export::cuda
