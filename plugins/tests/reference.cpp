#include "reference.h"

#include <cstddef>

namespace mamba_export::testing {
namespace {

Bounded exact(const std::vector<float>& values, std::int64_t at) {
  return {static_cast<double>(values[static_cast<std::size_t>(at)]), 0};
}

std::vector<Bounded> all_unspecified(std::int64_t count) {
  return std::vector<Bounded>(static_cast<std::size_t>(count), unspecified());
}

Bounded time_step(const Case& c, std::int64_t at, std::int64_t channel) {
  const Bounded raw = exact(c["dt"], at) + exact(c["dt_bias"], channel);
  return c.dt_softplus ? softplus(raw) : raw;
}

// exp(min(dt A, 0)). Kernels may hold A in units of ln 2, which overflows near the largest float.
Bounded decay_of(Bounded dt, Bounded A) {
  const bool overflows = A.finite() && std::fabs(A.value) > kMaxFloat / 2;
  return overflows ? unspecified() : decay(dt * A);
}

Expected causal_conv1d(const Case& c) {
  const std::int64_t channels = c.size['C'], width = c.size['K'], seqlen = c.seqlen();
  Expected result;
  result.y = all_unspecified(c.size['B'] * seqlen * channels);
  for (std::int64_t b = 0; b < c.size['B']; ++b) {
    for (std::int64_t channel = 0; channel < channels; ++channel) {
      // The raw input of a token; those before the first are the state.
      const auto sample = [&](std::int64_t t) {
        const std::int64_t past = (b * channels + channel) * (width - 1) + width - 1 + t;
        return t < 0 ? exact(c["conv_state"], past)
                     : exact(c["x"], (b * seqlen + t) * channels + channel);
      };
      for (std::int64_t t = 0; t < c.length(b); ++t) {
        Sum sum;
        sum.add(exact(c["bias"], channel));
        for (std::int64_t k = 0; k < width; ++k) {
          sum.add(exact(c["weight"], channel * width + k) * sample(t - (width - 1) + k));
        }
        const Bounded y = c.silu ? silu(sum.total()) : sum.total();
        result.y[static_cast<std::size_t>((b * seqlen + t) * channels + channel)] = y;
      }
      for (std::int64_t k = 1 - width; k < 0; ++k) {
        result.carried.push_back(sample(c.length(b) + k));
      }
    }
  }
  return result;
}

Expected selective_scan(const Case& c) {
  const std::int64_t dim = c.size['D'], dstate = c.size['N'], groups = c.size['G'];
  const std::int64_t seqlen = c.seqlen();
  Expected result;
  result.y = all_unspecified(c.size['B'] * seqlen * dim);
  const auto &x = c["x"], &A = c["A"], &B = c["B"], &C = c["C"], &D = c["D"];
  for (std::int64_t b = 0; b < c.size['B']; ++b) {
    for (std::int64_t d = 0; d < dim; ++d) {
      const std::int64_t group = d / (dim / groups);
      const std::int64_t length = c.length(b);
      std::vector<Bounded> h;
      for (std::int64_t n = 0; n < dstate; ++n) {
        h.push_back(exact(c["ssm_state"], (b * dim + d) * dstate + n));
      }
      for (std::int64_t visit = 0; visit < length; ++visit) {
        const std::int64_t token = b * seqlen + (c.reverse ? length - 1 - visit : visit);
        const std::int64_t at = token * dim + d;
        const Bounded input = exact(x, at);
        const Bounded dt = time_step(c, at, d);
        Sum sum;
        sum.add(exact(D, d) * input);
        for (std::int64_t n = 0; n < dstate; ++n) {
          Bounded& state = h[static_cast<std::size_t>(n)];
          const std::int64_t row = (token * groups + group) * dstate + n;
          state =
              decay_of(dt, exact(A, d * dstate + n)) * state + product(dt, input, exact(B, row));
          sum.add(exact(C, row) * state);
        }
        Bounded y = sum.total();
        if (c.gated) y = y * silu(exact(c["z"], at));
        result.y[static_cast<std::size_t>(at)] = y;
      }
      result.carried.insert(result.carried.end(), h.begin(), h.end());
    }
  }
  return result;
}

Expected ssd_chunk_scan(const Case& c) {
  const std::int64_t heads = c.size['H'], headdim = c.size['P'];
  const std::int64_t dstate = c.size['N'], groups = c.size['G'];
  const std::int64_t seqlen = c.seqlen();
  Expected result;
  result.y = all_unspecified(c.size['B'] * seqlen * heads * headdim);
  const auto &x = c["x"], &A = c["A"], &B = c["B"], &C = c["C"], &D = c["D"];
  for (std::int64_t b = 0; b < c.size['B']; ++b) {
    for (std::int64_t head = 0; head < heads; ++head) {
      const std::int64_t group = head / (heads / groups);
      std::vector<Bounded> h;  // [N,P]
      for (std::int64_t i = 0; i < dstate * headdim; ++i) {
        h.push_back(exact(c["ssm_state"], (b * heads + head) * dstate * headdim + i));
      }
      for (std::int64_t t = 0; t < c.length(b); ++t) {
        const std::int64_t token = b * seqlen + t;
        const std::int64_t at = token * heads + head;
        const Bounded dt = clamp(time_step(c, at, head), c.dt_min, c.dt_max);
        const Bounded a = decay_of(dt, exact(A, head));
        for (std::int64_t p = 0; p < headdim; ++p) {
          const Bounded input = exact(x, at * headdim + p);
          Sum sum;
          sum.add(exact(D, head) * input);
          for (std::int64_t n = 0; n < dstate; ++n) {
            Bounded& state = h[static_cast<std::size_t>(n * headdim + p)];
            const std::int64_t row = (token * groups + group) * dstate + n;
            state = a * state + product(dt, input, exact(B, row));
            sum.add(exact(C, row) * state);
          }
          result.y[static_cast<std::size_t>(at * headdim + p)] = sum.total();
        }
      }
      result.carried.insert(result.carried.end(), h.begin(), h.end());
    }
  }
  return result;
}

// 1 / sqrt(mean of v^2 + eps).
Bounded inverse_rms(const Case& c, const std::vector<Bounded>& values) {
  Sum squares;
  for (const Bounded& value : values) squares.add(value * value);
  const auto count = static_cast<double>(values.size());
  const Bounded mean = squares.total() * rounded(1 / count, 0);
  return inverse_root(mean + Bounded{static_cast<double>(c.eps), 0});
}

Expected add_rms_norm(const Case& c) {
  const std::int64_t dim = c.size['D'];
  Expected result;
  for (std::int64_t r = 0; r < c.size['R']; ++r) {
    std::vector<Bounded> hidden;
    for (std::int64_t at = r * dim; at < (r + 1) * dim; ++at) {
      // One float32 addition, stored as the stream's type: there is one right answer.
      const double sum = exact(c["hidden"], at).value + exact(c["delta"], at).value;
      hidden.push_back({round_to(c.residual, round_to(ElementType::kFloat32, sum)), 0});
    }
    const Bounded scale = inverse_rms(c, hidden);
    for (std::int64_t d = 0; d < dim; ++d) {
      result.y.push_back(
          product(hidden[static_cast<std::size_t>(d)], scale, exact(c["weight"], d)));
    }
    result.carried.insert(result.carried.end(), hidden.begin(), hidden.end());
  }
  return result;
}

Expected gated_rms_norm(const Case& c) {
  const std::int64_t groups = c.size['G'], width = c.size['D'] / groups;
  Expected result;
  for (std::int64_t group = 0; group < c.size['R'] * groups; ++group) {
    std::vector<Bounded> values, gates;
    for (std::int64_t at = group * width; at < (group + 1) * width; ++at) {
      gates.push_back(silu(exact(c["z"], at)));
      values.push_back(exact(c["x"], at));
      if (!c.norm_before_gate) values.back() = values.back() * gates.back();
    }
    const Bounded scale = inverse_rms(c, values);
    for (std::int64_t i = 0; i < width; ++i) {
      const Bounded weight = exact(c["weight"], group % groups * width + i);
      const auto k = static_cast<std::size_t>(i);
      const Bounded y = product(values[k], scale, weight);
      result.y.push_back(c.norm_before_gate ? y * gates[k] : y);
    }
  }
  return result;
}

}  // namespace

Expected reference(const Case& c) {
  switch (c.op->kind) {
    case Kind::kConv:
      return causal_conv1d(c);
    case Kind::kSelective:
      return selective_scan(c);
    case Kind::kSSD:
      return ssd_chunk_scan(c);
    case Kind::kAddNorm:
      return add_rms_norm(c);
    case Kind::kGatedNorm:
      return gated_rms_norm(c);
  }
  return {};
}

}  // namespace mamba_export::testing
