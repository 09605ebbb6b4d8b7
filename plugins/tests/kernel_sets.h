// The kernels under test; a program is linked with one definition.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include "cpu_isa.h"
#include "op_case.h"

namespace mamba_export::testing {

// All that this machine runs.
std::vector<const Kernels*> kernel_sets();

// Called once for all memory that operands will lie in.
void share_memory(void* memory, std::size_t bytes);

using Pointers = std::vector<void*>;  // to the operands of a call, in the contract's order

// Calls `call` with pointers for these kernels: those to the operands of a case in that memory, or
// to copies of them, which are brought back afterwards.
void with_operands(const Kernels& kernels, const Case& c, const Pointers& operands,
                   const std::function<void(const Pointers&)>& call);

}  // namespace mamba_export::testing
