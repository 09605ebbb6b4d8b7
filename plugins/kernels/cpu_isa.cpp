#include "cpu_isa.h"

#include <cstdlib>

namespace mamba_export {

// Each is defined by one build of the sources *_cpu.cpp.
#define MAMBA_EXPORT_DECLARE(isa)                                                     \
  namespace isa {                                                                     \
  void causal_conv1d(const CausalConv1dParams&, const ParallelFor&);                  \
  void causal_conv1d_update(const CausalConv1dUpdateParams&, const ParallelFor&);     \
  void selective_scan(const SelectiveScanParams&, const ParallelFor&);                \
  void selective_state_update(const SelectiveStateUpdateParams&, const ParallelFor&); \
  void ssd_chunk_scan(const SSDChunkScanParams&, const ParallelFor&);                 \
  void ssd_state_update(const SSDStateUpdateParams&, const ParallelFor&);             \
  void add_rms_norm(const AddRMSNormParams&, const ParallelFor&);                     \
  void gated_rms_norm(const GatedRMSNormParams&, const ParallelFor&);                 \
  constexpr CpuKernels kKernels = {#isa,                                              \
                                   causal_conv1d,                                     \
                                   causal_conv1d_update,                              \
                                   selective_scan,                                    \
                                   selective_state_update,                            \
                                   ssd_chunk_scan,                                    \
                                   ssd_state_update,                                  \
                                   add_rms_norm,                                      \
                                   gated_rms_norm};                                   \
  }

MAMBA_EXPORT_DECLARE(portable)
#if defined(__x86_64__)
MAMBA_EXPORT_DECLARE(avx2)
MAMBA_EXPORT_DECLARE(avx512)
#endif

const CpuKernels* cpu_kernels(std::string_view isa) {
#if defined(__x86_64__)
  // These ask the processor, and also whether the system saves the registers.
  if (isa == "avx512") {
    const bool has = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                     __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                     __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    return has ? &avx512::kKernels : nullptr;
  }
  if (isa == "avx2") {
    const bool has = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                     __builtin_cpu_supports("f16c");
    return has ? &avx2::kKernels : nullptr;
  }
#endif
  return isa == "portable" ? &portable::kKernels : nullptr;
}

const CpuKernels& cpu_kernels() {
  static const CpuKernels& chosen = []() -> const CpuKernels& {
    const char* name = std::getenv("MAMBA_EXPORT_CPU_ISA");
    if (name != nullptr) {
      if (const CpuKernels* named = cpu_kernels(name)) return *named;
    }
    for (const char* isa : {"avx512", "avx2"}) {
      if (const CpuKernels* found = cpu_kernels(isa)) return *found;
    }
    return portable::kKernels;
  }();
  return chosen;
}

void causal_conv1d_cpu(const CausalConv1dParams& p, const ParallelFor& parallel_for) {
  cpu_kernels().causal_conv1d(p, parallel_for);
}
void causal_conv1d_update_cpu(const CausalConv1dUpdateParams& p, const ParallelFor& parallel_for) {
  cpu_kernels().causal_conv1d_update(p, parallel_for);
}
void selective_scan_cpu(const SelectiveScanParams& p, const ParallelFor& parallel_for) {
  cpu_kernels().selective_scan(p, parallel_for);
}
void selective_state_update_cpu(const SelectiveStateUpdateParams& p,
                                const ParallelFor& parallel_for) {
  cpu_kernels().selective_state_update(p, parallel_for);
}
void ssd_chunk_scan_cpu(const SSDChunkScanParams& p, const ParallelFor& parallel_for) {
  cpu_kernels().ssd_chunk_scan(p, parallel_for);
}
void ssd_state_update_cpu(const SSDStateUpdateParams& p, const ParallelFor& parallel_for) {
  cpu_kernels().ssd_state_update(p, parallel_for);
}
void add_rms_norm_cpu(const AddRMSNormParams& p, const ParallelFor& parallel_for) {
  cpu_kernels().add_rms_norm(p, parallel_for);
}
void gated_rms_norm_cpu(const GatedRMSNormParams& p, const ParallelFor& parallel_for) {
  cpu_kernels().gated_rms_norm(p, parallel_for);
}

}  // namespace mamba_export
