// AddRMSNorm: a block's output joins the residual stream, and the sum is normalised for the next
// block.
//
//   h'[r,d] = h[r,d] + delta[r,d]
//   y[r,d]  = h'[r,d] / sqrt(mean_d(h'[r,d]^2) + eps) * weight[d]
#pragma once

#include <cstdint>
#include <string>

#include "element_type.h"
#include "parallel_for.h"

namespace mamba_export {

struct AddRMSNormParams {
  std::int64_t rows = 0;  // all leading axes together
  std::int64_t dim = 0;   // D
  float eps = 0;
  ElementType type = ElementType::kFloat32;      // of delta and y
  ElementType residual = ElementType::kFloat32;  // of hidden and hidden_out: float32 or `type`
  const void* hidden = nullptr;                  // [rows,D]
  const void* delta = nullptr;                   // [rows,D]
  const float* weight = nullptr;                 // [D]
  void* y = nullptr;                             // [rows,D]
  void* hidden_out = nullptr;                    // [rows,D]; may be hidden
};

// Returns what is wrong with the parameters, or an empty string.
std::string validate(const AddRMSNormParams& p);

// Runs on the CPU. The parameters are valid; y overlaps no input.
void add_rms_norm_cpu(const AddRMSNormParams& p, const ParallelFor& parallel_for);

}  // namespace mamba_export
