// Compiled once an instruction set, like the kernels.
#include "math_probe.h"
#include "vector_math.h"

namespace mamba_export::MAMBA_EXPORT_ISA {
namespace {

template <Vec (*f)(Vec)>
void apply(const float* x, float* y, std::size_t count) {
  for (std::size_t i = 0; i < count; i += kLanes) {
    const int lanes = static_cast<int>(count - i < kLanes ? count - i : kLanes);
    store(y + i, f(load(x + i, lanes)), lanes);
  }
}

#define MAMBA_EXPORT_TEXT(isa) MAMBA_EXPORT_TEXT_OF(isa)
#define MAMBA_EXPORT_TEXT_OF(isa) #isa

}  // namespace

extern const testing::MathProbe kMathProbe;
const testing::MathProbe kMathProbe = {
    MAMBA_EXPORT_TEXT(MAMBA_EXPORT_ISA),
    apply<exp2_of_negative>,
    apply<exp>,
    apply<softplus>,
    apply<silu>,
};

}  // namespace mamba_export::MAMBA_EXPORT_ISA
