#include "selective_scan.h"

#include "validation.h"

namespace mamba_export {

std::string validate(const SelectiveScanParams& p) {
  std::string problem = validate(static_cast<const SelectiveStateUpdateParams&>(p));
  require_lengths(problem, p.seqlens, p.batch, p.seqlen);
  return problem;
}

std::string validate(const SelectiveStateUpdateParams& p) {
  std::string problem;
  require_sizes(problem, "dstate", p.dstate, 1, 256);
  require_groups(problem, "dim", p.dim, p.ngroups);
  return problem;
}

}  // namespace mamba_export
