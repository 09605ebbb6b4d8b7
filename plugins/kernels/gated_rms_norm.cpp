#include "gated_rms_norm.h"

#include "validation.h"

namespace mamba_export {

std::string validate(const GatedRMSNormParams& p) {
  std::string problem;
  require_groups(problem, "dim", p.dim, p.ngroups);
  require_epsilon(problem, p.eps);
  return problem;
}

}  // namespace mamba_export
