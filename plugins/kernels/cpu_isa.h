// The CPU kernels exist once per instruction set; this picks one.
#pragma once

#include <string_view>

#include "add_rms_norm.h"
#include "causal_conv1d.h"
#include "gated_rms_norm.h"
#include "selective_scan.h"
#include "ssd_chunk_scan.h"

namespace mamba_export {

struct CpuKernels {
  const char* isa;  // avx512, avx2 or portable
  void (*causal_conv1d)(const CausalConv1dParams&, const ParallelFor&);
  void (*causal_conv1d_update)(const CausalConv1dUpdateParams&, const ParallelFor&);
  void (*selective_scan)(const SelectiveScanParams&, const ParallelFor&);
  void (*selective_state_update)(const SelectiveStateUpdateParams&, const ParallelFor&);
  void (*ssd_chunk_scan)(const SSDChunkScanParams&, const ParallelFor&);
  void (*ssd_state_update)(const SSDStateUpdateParams&, const ParallelFor&);
  void (*add_rms_norm)(const AddRMSNormParams&, const ParallelFor&);
  void (*gated_rms_norm)(const GatedRMSNormParams&, const ParallelFor&);
};

// Returns the kernels of one instruction set, or null if this build or this machine lacks it.
const CpuKernels* cpu_kernels(std::string_view isa);

// Returns the fastest kernels that this machine runs. The environment variable
// MAMBA_EXPORT_CPU_ISA, read once, names another set; one that is not there is ignored.
const CpuKernels& cpu_kernels();

}  // namespace mamba_export
