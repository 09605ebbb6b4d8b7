#include "conv_ssd_state_update.h"

#include "validation.h"

namespace mamba_export {

CausalConv1dUpdateParams convolution_of(const ConvSSDStateUpdateParams& p) {
  CausalConv1dUpdateParams conv;
  conv.batch = p.batch;
  conv.channels = p.channels;
  conv.width = p.width;
  conv.silu = p.silu;
  conv.type = p.type;
  conv.x = p.x;
  conv.weight = p.weight;
  conv.bias = p.bias;
  conv.conv_state = p.conv_state;
  conv.conv_state_out = p.conv_state_out;
  return conv;
}

SSDStateUpdateParams recurrence_of(const ConvSSDStateUpdateParams& p) {
  SSDStateUpdateParams ssd;
  ssd.batch = p.batch;
  ssd.nheads = p.nheads;
  ssd.headdim = p.headdim;
  ssd.dstate = p.dstate;
  ssd.ngroups = p.ngroups;
  ssd.dt_softplus = p.dt_softplus;
  ssd.dt_min = p.dt_min;
  ssd.dt_max = p.dt_max;
  ssd.type = p.type;
  ssd.dt = p.dt;
  ssd.A = p.A;
  ssd.D = p.D;
  ssd.dt_bias = p.dt_bias;
  ssd.ssm_state = p.ssm_state;
  ssd.y = p.y;
  ssd.ssm_state_out = p.ssm_state_out;
  return ssd;
}

std::string validate(const ConvSSDStateUpdateParams& p) {
  std::string problem = validate(convolution_of(p));
  if (problem.empty()) problem = validate(recurrence_of(p));
  // Without heads a block of the GPU would have no part of the convolution, and groups no limit.
  const std::int64_t inner = p.nheads * p.headdim;
  require_sizes(problem, "nheads * headdim", inner, 1, p.channels);
  if (!problem.empty()) return problem;
  const std::int64_t parts = inner + 2 * p.ngroups * p.dstate;
  if (p.channels != parts) {
    problem = "channels is " + std::to_string(p.channels) +
              ", expected nheads * headdim + 2 * ngroups * dstate, which is " +
              std::to_string(parts);
  }
  return problem;
}

}  // namespace mamba_export
