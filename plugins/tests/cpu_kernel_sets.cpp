// The CPU kernels of every instruction set.
#include "kernel_sets.h"

namespace mamba_export::testing {

std::vector<const Kernels*> kernel_sets() {
  std::vector<const Kernels*> sets;
  for (const char* isa : {"avx512", "avx2", "portable"}) {
    if (const Kernels* const kernels = cpu_kernels(isa)) sets.push_back(kernels);
  }
  return sets;
}

void share_memory(void*, std::size_t) {}

void with_operands(const Kernels&, const Case&, const Pointers& operands,
                   const std::function<void(const Pointers&)>& call) {
  call(operands);
}

}  // namespace mamba_export::testing
