#include "add_rms_norm.h"

#include "validation.h"

namespace mamba_export {

std::string validate(const AddRMSNormParams& p) {
  std::string problem;
  require_epsilon(problem, p.eps);
  if (problem.empty() && p.residual != ElementType::kFloat32 && p.residual != p.type) {
    problem = "the residual stream must be float32 or of the type of the activations";
  }
  return problem;
}

}  // namespace mamba_export
