// GatedRMSNorm: RMS norm over groups of adjacent channels, with a gate before or after it.
//
//   y[r,:] = norm(x[r,:] * silu(z[r,:])) * weight, or norm(x[r,:]) * weight * silu(z[r,:])
//
// where norm divides each group of D/G channels by sqrt(its mean square + eps).
#pragma once

#include <cstdint>
#include <string>

#include "element_type.h"
#include "parallel_for.h"

namespace mamba_export {

struct GatedRMSNormParams {
  std::int64_t rows = 0;     // all leading axes together
  std::int64_t dim = 0;      // D
  std::int64_t ngroups = 0;  // G
  float eps = 0;
  bool norm_before_gate = false;
  ElementType type = ElementType::kFloat32;
  const void* x = nullptr;        // [rows,D]
  const void* z = nullptr;        // [rows,D]
  const float* weight = nullptr;  // [D]
  void* y = nullptr;              // [rows,D]
};

// Returns what is wrong with the parameters, or an empty string.
std::string validate(const GatedRMSNormParams& p);

// Runs on the CPU. The parameters are valid; y overlaps no input.
void gated_rms_norm_cpu(const GatedRMSNormParams& p, const ParallelFor& parallel_for);

}  // namespace mamba_export
