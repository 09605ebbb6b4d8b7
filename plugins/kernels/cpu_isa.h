// The CPU kernels exist once per instruction set; this picks one.
#pragma once

#include <string_view>

#include "add_rms_norm.h"
#include "causal_conv1d.h"
#include "conv_ssd_state_update.h"
#include "gated_rms_norm.h"
#include "selective_scan.h"
#include "ssd_chunk_scan.h"

namespace mamba_export {

// Every op: its Params without the ending, and its kernel.
#define MAMBA_EXPORT_FOR_EACH_OP(X)               \
  X(CausalConv1d, causal_conv1d)                  \
  X(CausalConv1dUpdate, causal_conv1d_update)     \
  X(SelectiveScan, selective_scan)                \
  X(SelectiveStateUpdate, selective_state_update) \
  X(SSDChunkScan, ssd_chunk_scan)                 \
  X(SSDStateUpdate, ssd_state_update)             \
  X(ConvSSDStateUpdate, conv_ssd_state_update)    \
  X(AddRMSNorm, add_rms_norm)                     \
  X(GatedRMSNorm, gated_rms_norm)

struct Kernels {
  const char* isa;  // avx512, avx2 or portable; tests have others
#define MAMBA_EXPORT_MEMBER(Op, kernel) void (*kernel)(const Op##Params&, const ParallelFor&);
  MAMBA_EXPORT_FOR_EACH_OP(MAMBA_EXPORT_MEMBER)
#undef MAMBA_EXPORT_MEMBER
  // The parts of a sequence, and its steps, leave the whole's bits.
  bool exact = true;
  bool matrices = false;  // SSDChunkScan rounds what it multiplies as matrices to 16 bits
};

// Returns the kernels of one instruction set, or null if this build or this machine lacks it.
const Kernels* cpu_kernels(std::string_view isa);

// Returns the fastest kernels that this machine runs. The environment variable
// MAMBA_EXPORT_CPU_ISA, read once, names another set; one that is not there is ignored.
const Kernels& cpu_kernels();

}  // namespace mamba_export
