// How a node of each op becomes its Params, the same for every runtime. Params have members with
// the names of inputs and outputs; `read` is for when a node is made, `resize` for every run.
#pragma once

#include "attributes.h"
#include "cpu_isa.h"
#include "sizes.h"

namespace mamba_export::nodes {

#define MAMBA_EXPORT_NODE(Op, kernel)                      \
  struct Op {                                              \
    using Params = Op##Params;                             \
    static constexpr const char* kName = #Op;              \
    static void read(Attributes& node, Params& params);    \
    static void resize(const Sizes& size, Params& params); \
  };
MAMBA_EXPORT_FOR_EACH_OP(MAMBA_EXPORT_NODE)
#undef MAMBA_EXPORT_NODE

}  // namespace mamba_export::nodes
