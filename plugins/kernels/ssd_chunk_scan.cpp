#include "ssd_chunk_scan.h"

#include "validation.h"

namespace mamba_export {

std::string validate(const SSDChunkScanParams& p) {
  std::string problem = validate(static_cast<const SSDStateUpdateParams&>(p));
  require_lengths(problem, p.seqlens, p.batch, p.seqlen);
  return problem;
}

std::string validate(const SSDStateUpdateParams& p) {
  std::string problem;
  require_groups(problem, "nheads", p.nheads, p.ngroups);
  return problem;
}

}  // namespace mamba_export
