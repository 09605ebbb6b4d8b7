// The kernels under test; a program is linked with one definition.
#pragma once

#include <cstddef>
#include <vector>

#include "cpu_isa.h"

namespace mamba_export::testing {

// All that this machine runs.
std::vector<const Kernels*> kernel_sets();

// Called once for all memory that operands will lie in.
void share_memory(void* memory, std::size_t bytes);

}  // namespace mamba_export::testing
