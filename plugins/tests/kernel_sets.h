// The kernels under test; a program is linked with one definition.
#pragma once

#include <vector>

#include "cpu_isa.h"

namespace mamba_export::testing {

// All that this machine runs.
std::vector<const Kernels*> kernel_sets();

}  // namespace mamba_export::testing
