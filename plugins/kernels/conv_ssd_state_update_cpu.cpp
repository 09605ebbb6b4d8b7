// The convolution's result is small and stays in cache until the heads, each on some thread, have
// taken their parts of it.
#include <vector>

#include "conv_ssd_state_update.h"
#include "cpu_kernel.h"

namespace mamba_export::MAMBA_EXPORT_ISA {

void causal_conv1d_update(const CausalConv1dUpdateParams& p, const ParallelFor& parallel_for);
void ssd_state_update(const SSDStateUpdateParams& p, const SSDRows& rows,
                      const ParallelFor& parallel_for);

void conv_ssd_state_update(const ConvSSDStateUpdateParams& p, const ParallelFor& parallel_for) {
  const auto bytes = [&](std::int64_t elements) {
    return static_cast<std::size_t>(elements) * size_of(p.type);
  };
  std::vector<unsigned char> convolved(bytes(p.batch * p.channels));
  CausalConv1dUpdateParams conv = convolution_of(p);
  conv.y = convolved.data();
  causal_conv1d_update(conv, parallel_for);
  SSDStateUpdateParams ssd = recurrence_of(p);
  ssd.x = convolved.data();
  ssd.B = convolved.data() + bytes(p.nheads * p.headdim);
  ssd.C = convolved.data() + bytes(p.nheads * p.headdim + p.ngroups * p.dstate);
  ssd_state_update(ssd, {p.channels, p.channels}, parallel_for);
}

}  // namespace mamba_export::MAMBA_EXPORT_ISA
