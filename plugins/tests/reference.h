// What each op means: sequential recurrences in double, one token after the other, that carry a
// bound on the error of any correct float32 kernel. Written from the formulas in the kernels'
// headers; shares no code with a kernel.
#pragma once

#include <vector>

#include "bounded.h"
#include "op_case.h"

namespace mamba_export::testing {

// The outputs in the contract's order; y is unspecified past a row's length.
using Expected = std::vector<std::vector<Bounded>>;

// How kernels may compute more coarsely than token by token in float32.
enum class Precision {
  kFloat32,
  // SSDChunkScan may join segments of a sequence, and where a GPU's matrices fit it may round what
  // goes into their products to the activations' type (ssd_chunk_mma.cu).
  kMatrices,
};

Expected reference(const Case& c, Precision precision = Precision::kFloat32);

}  // namespace mamba_export::testing
