// SSDChunkScan and SSDStateUpdate: Mamba-2's recurrence (arXiv 2405.21060, section 3).
//
//   dt = clamp(softplus(dt + dt_bias), dt_min, dt_max)
//   h[n,p] = exp(min(dt * A, 0)) * h[n,p] + B[g,n] * dt * x[p]      for each head
//   y[p] = sum_n C[g,n] * h[n,p] + D * x[p],                       g = head / (H/G)
#pragma once

#include <cstdint>
#include <string>

#include "element_type.h"
#include "parallel_for.h"

namespace mamba_export {

// One token.
struct SSDStateUpdateParams {
  std::int64_t batch = 0;    // B
  std::int64_t nheads = 0;   // H
  std::int64_t headdim = 0;  // P
  std::int64_t dstate = 0;   // N
  std::int64_t ngroups = 0;  // G, a divisor of H
  bool dt_softplus = false;
  float dt_min = 0;
  float dt_max = 0;
  ElementType type = ElementType::kFloat32;
  const void* x = nullptr;           // [B,H,P]; over a sequence [B,T,H,P]
  const void* dt = nullptr;          // [B,H]; over a sequence [B,T,H]
  const float* A = nullptr;          // [H]
  const void* B = nullptr;           // [B,G,N]; over a sequence [B,T,G,N]
  const void* C = nullptr;           // as B
  const float* D = nullptr;          // [H]
  const float* dt_bias = nullptr;    // [H]
  const float* ssm_state = nullptr;  // [B,H,N,P]
  void* y = nullptr;                 // as x
  float* ssm_state_out = nullptr;    // [B,H,N,P]; may be ssm_state
};

// Elements from one row of the batch to the next: of x, and of B and C.
struct SSDRows {
  std::int64_t x;
  std::int64_t keys;
};

// Of x [B,H,P] and of B and C [B,G,N] on their own.
inline SSDRows dense_rows(const SSDStateUpdateParams& p) {
  return {p.nheads * p.headdim, p.ngroups * p.dstate};
}

// A sequence: the same, and how long it is.
struct SSDChunkScanParams : SSDStateUpdateParams {
  std::int64_t seqlen = 0;                // T
  const std::int32_t* seqlens = nullptr;  // [B], 0 to T
};

// Return what is wrong with sizes or lengths, or an empty string.
std::string validate(const SSDChunkScanParams& p);
std::string validate(const SSDStateUpdateParams& p);

// Run on the CPU. The parameters are valid; y overlaps no input.
void ssd_chunk_scan_cpu(const SSDChunkScanParams& p, const ParallelFor& parallel_for);
void ssd_state_update_cpu(const SSDStateUpdateParams& p, const ParallelFor& parallel_for);

}  // namespace mamba_export
