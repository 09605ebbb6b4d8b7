// Draws cases: sizes around the widths of vectors, slices and chunks, every attribute and element
// type, and values from the usual to the impossible.
#pragma once

#include <string>

#include "op_case.h"
#include "random.h"

namespace mamba_export::testing {

// Draws a case of one op, or of any op if `op` is null. A wide case is long enough for a kernel to
// ask for threads; a few of the others are too.
Case generate(Random& random, const OpSpec* op, bool wide);

}  // namespace mamba_export::testing
