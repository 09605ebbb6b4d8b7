#include "math_probe.h"

#include "cpu_isa.h"

namespace mamba_export {

namespace portable {
extern const testing::MathProbe kMathProbe;
}
#if defined(__x86_64__)
namespace avx2 {
extern const testing::MathProbe kMathProbe;
}
namespace avx512 {
extern const testing::MathProbe kMathProbe;
}
#endif

namespace testing {

const MathProbe* math_probe(std::string_view isa) {
  if (cpu_kernels(isa) == nullptr) return nullptr;
#if defined(__x86_64__)
  if (isa == "avx512") return &avx512::kMathProbe;
  if (isa == "avx2") return &avx2::kMathProbe;
#endif
  return &portable::kMathProbe;
}

}  // namespace testing
}  // namespace mamba_export
