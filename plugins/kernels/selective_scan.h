// SelectiveScan and SelectiveStateUpdate: Mamba's recurrence (arXiv 2312.00752, algorithm 2).
//
//   dt = softplus(dt + dt_bias)
//   h[d,n] = exp(min(dt[d] * A[d,n], 0)) * h[d,n] + dt[d] * x[d] * B[g,n]
//   y[d] = (sum_n C[g,n] * h[d,n] + D[d] * x[d]) * silu(z[d]),   g = d / (D/G)
#pragma once

#include <cstdint>
#include <string>

#include "element_type.h"
#include "parallel_for.h"

namespace mamba_export {

// One token.
struct SelectiveStateUpdateParams {
  std::int64_t batch = 0;    // B
  std::int64_t dim = 0;      // D
  std::int64_t dstate = 0;   // N
  std::int64_t ngroups = 0;  // G, a divisor of D
  bool dt_softplus = false;  // else dt + dt_bias as it is
  bool gated = false;        // multiply y by silu(z), else z is not read
  ElementType type = ElementType::kFloat32;
  const void* x = nullptr;           // [B,D]; over a sequence [B,T,D]
  const void* dt = nullptr;          // as x
  const float* A = nullptr;          // [D,N]
  const void* B = nullptr;           // [B,G,N]; over a sequence [B,T,G,N]
  const void* C = nullptr;           // as B
  const float* D = nullptr;          // [D]
  const void* z = nullptr;           // as x
  const float* dt_bias = nullptr;    // [D]
  const float* ssm_state = nullptr;  // [B,D,N]
  void* y = nullptr;                 // as x
  float* ssm_state_out = nullptr;    // [B,D,N]; may be ssm_state
};

// A sequence: the same, and how long it is.
struct SelectiveScanParams : SelectiveStateUpdateParams {
  std::int64_t seqlen = 0;  // T
  bool reverse = false;     // visit each row's valid tokens from its last to its first
  const std::int32_t* seqlens = nullptr;  // [B], 0 to T
};

// Return what is wrong with sizes or lengths, or an empty string.
std::string validate(const SelectiveScanParams& p);
std::string validate(const SelectiveStateUpdateParams& p);

// Run on the CPU. The parameters are valid; y overlaps no input.
void selective_scan_cpu(const SelectiveScanParams& p, const ParallelFor& parallel_for);
void selective_state_update_cpu(const SelectiveStateUpdateParams& p,
                                const ParallelFor& parallel_for);

}  // namespace mamba_export
