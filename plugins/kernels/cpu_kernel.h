// What the CPU kernels share besides vectors.
#pragma once

#include <cstdint>

#include "simd.h"

namespace mamba_export::MAMBA_EXPORT_ISA {
namespace {

inline std::int64_t lesser(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

// Whether a sequence is one token a row, none of them padding: then it is a step.
template <class Params>
bool is_one_step(const Params& p) {
  if (p.seqlen != 1) return false;
  for (std::int64_t b = 0; b < p.batch; ++b) {
    if (p.seqlens[b] != 1) return false;
  }
  return true;
}

}  // namespace
}  // namespace mamba_export::MAMBA_EXPORT_ISA
