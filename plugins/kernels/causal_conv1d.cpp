#include "causal_conv1d.h"

#include "validation.h"

namespace mamba_export {

std::string validate(const CausalConv1dParams& p) {
  std::string problem = validate(static_cast<const CausalConv1dUpdateParams&>(p));
  require_lengths(problem, p.seqlens, p.batch, p.seqlen);
  return problem;
}

std::string validate(const CausalConv1dUpdateParams& p) {
  std::string problem;
  require_sizes(problem, "the filter's width", p.width, 2, 4);
  return problem;
}

}  // namespace mamba_export
