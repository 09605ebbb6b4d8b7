// The kernels' exponentials, softplus and SiLU as functions over arrays, once an instruction set.
#pragma once

#include <cstddef>
#include <string_view>

namespace mamba_export::testing {

using MathFunction = void (*)(const float* x, float* y, std::size_t count);

struct MathProbe {
  const char* isa;
  MathFunction exp2_of_negative;
  MathFunction exp;
  MathFunction softplus;
  MathFunction silu;
};

// Returns the functions of an instruction set, or null if this build or this machine lacks it.
const MathProbe* math_probe(std::string_view isa);

}  // namespace mamba_export::testing
