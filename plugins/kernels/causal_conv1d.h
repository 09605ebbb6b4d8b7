// CausalConv1d and CausalConv1dUpdate: causal depthwise convolution over time.
//
//   y[b,t,c] = act(bias[c] + sum_k weight[c,k] * x[b,t-K+1+k,c])
//
// where x before t = 0 is conv_state, the newest sample last.
#pragma once

#include <cstdint>
#include <string>

#include "element_type.h"
#include "parallel_for.h"

namespace mamba_export {

// One token.
struct CausalConv1dUpdateParams {
  std::int64_t batch = 0;     // B
  std::int64_t channels = 0;  // C
  std::int64_t width = 0;     // K, 2 to 4
  bool silu = false;          // activation: SiLU, else none
  ElementType type = ElementType::kFloat32;
  const void* x = nullptr;           // [B,C]; over a sequence [B,T,C]
  const void* weight = nullptr;      // [C,K]
  const void* bias = nullptr;        // [C]
  const void* conv_state = nullptr;  // [B,C,K-1]
  void* y = nullptr;                 // as x
  void* conv_state_out = nullptr;    // [B,C,K-1]; may be conv_state
};

// A sequence: the same, and how long it is.
struct CausalConv1dParams : CausalConv1dUpdateParams {
  std::int64_t seqlen = 0;                // T
  const std::int32_t* seqlens = nullptr;  // [B], 0 to T
};

// Return what is wrong with sizes or lengths, or an empty string.
std::string validate(const CausalConv1dParams& p);
std::string validate(const CausalConv1dUpdateParams& p);

// Run on the CPU. The parameters are valid; y overlaps no input.
void causal_conv1d_cpu(const CausalConv1dParams& p, const ParallelFor& parallel_for);
void causal_conv1d_update_cpu(const CausalConv1dUpdateParams& p, const ParallelFor& parallel_for);

}  // namespace mamba_export
