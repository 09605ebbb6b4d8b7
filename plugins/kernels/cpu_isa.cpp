#include "cpu_isa.h"

#include <cstdlib>

namespace mamba_export {

// Each is defined by one build of the sources *_cpu.cpp.
#define MAMBA_EXPORT_KERNEL(Op, kernel) void kernel(const Op##Params&, const ParallelFor&);
#define MAMBA_EXPORT_ENTRY(Op, kernel) , kernel
#define MAMBA_EXPORT_DECLARE(isa)                                                   \
  namespace isa {                                                                   \
  MAMBA_EXPORT_FOR_EACH_OP(MAMBA_EXPORT_KERNEL)                                     \
  constexpr Kernels kKernels = {#isa MAMBA_EXPORT_FOR_EACH_OP(MAMBA_EXPORT_ENTRY)}; \
  }

MAMBA_EXPORT_DECLARE(portable)
#if defined(__x86_64__)
MAMBA_EXPORT_DECLARE(avx2)
MAMBA_EXPORT_DECLARE(avx512)
#endif

const Kernels* cpu_kernels(std::string_view isa) {
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

const Kernels& cpu_kernels() {
  static const Kernels& chosen = []() -> const Kernels& {
    const char* name = std::getenv("MAMBA_EXPORT_CPU_ISA");
    if (name != nullptr) {
      if (const Kernels* named = cpu_kernels(name)) return *named;
    }
    for (const char* isa : {"avx512", "avx2"}) {
      if (const Kernels* found = cpu_kernels(isa)) return *found;
    }
    return portable::kKernels;
  }();
  return chosen;
}

#define MAMBA_EXPORT_CALL(Op, kernel)                                       \
  void kernel##_cpu(const Op##Params& p, const ParallelFor& parallel_for) { \
    cpu_kernels().kernel(p, parallel_for);                                  \
  }
MAMBA_EXPORT_FOR_EACH_OP(MAMBA_EXPORT_CALL)

}  // namespace mamba_export
