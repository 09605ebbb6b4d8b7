// ConvSSDStateUpdate: one token of Mamba-2 from its convolution to y. CausalConv1dUpdate yields
// x [H,P], B [G,N] and C [G,N], in this order, which SSDStateUpdate takes.
#pragma once

#include <cstdint>
#include <string>

#include "causal_conv1d.h"
#include "element_type.h"
#include "parallel_for.h"
#include "ssd_chunk_scan.h"

namespace mamba_export {

struct ConvSSDStateUpdateParams {
  std::int64_t batch = 0;     // B
  std::int64_t channels = 0;  // C, which is H P + 2 G N
  std::int64_t width = 0;     // K, 2 to 4
  std::int64_t nheads = 0;    // H
  std::int64_t headdim = 0;   // P
  std::int64_t dstate = 0;    // N
  std::int64_t ngroups = 0;   // G, a divisor of H
  bool silu = false;          // activation of the convolution: SiLU, else none
  bool dt_softplus = false;
  float dt_min = 0;
  float dt_max = 0;
  ElementType type = ElementType::kFloat32;
  const void* x = nullptr;           // [B,C]
  const void* weight = nullptr;      // [C,K]
  const void* bias = nullptr;        // [C]
  const void* conv_state = nullptr;  // [B,C,K-1]
  const void* dt = nullptr;          // [B,H]
  const float* A = nullptr;          // [H]
  const float* D = nullptr;          // [H]
  const float* dt_bias = nullptr;    // [H]
  const float* ssm_state = nullptr;  // [B,H,N,P]
  void* y = nullptr;                 // [B,H,P]
  void* conv_state_out = nullptr;    // [B,C,K-1]; may be conv_state
  float* ssm_state_out = nullptr;    // [B,H,N,P]; may be ssm_state
};

// The two ops that it consists of: the convolution, whose y [B,C] still has no place, and the
// recurrence, whose x, B and C still come from nowhere.
CausalConv1dUpdateParams convolution_of(const ConvSSDStateUpdateParams& p);
SSDStateUpdateParams recurrence_of(const ConvSSDStateUpdateParams& p);

// Return what is wrong with sizes, or an empty string.
std::string validate(const ConvSSDStateUpdateParams& p);

// Run on the CPU. The parameters are valid; y overlaps no input.
void conv_ssd_state_update_cpu(const ConvSSDStateUpdateParams& p, const ParallelFor& parallel_for);

}  // namespace mamba_export
