#include "reference.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <map>
#include <string>

namespace mamba_export::testing {
namespace {

Bounded exact(const std::vector<float>& values, std::int64_t at) {
  return {static_cast<double>(values[static_cast<std::size_t>(at)]), 0};
}

std::vector<Bounded> all_unspecified(std::int64_t count) {
  return std::vector<Bounded>(static_cast<std::size_t>(count), unspecified());
}

// What a kernel reads of a value that it stored: near a tie either neighbour.
Bounded stored(ElementType type, Bounded value) {
  if (!value.specified() || !value.finite()) return value;
  const double low = round_to(type, value.value - value.error);
  const double high = round_to(type, value.value + value.error);
  if (low == high) return {low, 0};  // also if both are infinite
  return std::isinf(low) || std::isinf(high) ? unspecified()
                                             : Bounded{(low + high) / 2, (high - low) / 2};
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
  std::vector<Bounded> all_y = all_unspecified(c.size['B'] * seqlen * channels), state;
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
        all_y[static_cast<std::size_t>((b * seqlen + t) * channels + channel)] = y;
      }
      for (std::int64_t k = 1 - width; k < 0; ++k) {
        state.push_back(sample(c.length(b) + k));
      }
    }
  }
  return {all_y, state};
}

Expected selective_scan(const Case& c) {
  const std::int64_t dim = c.size['D'], dstate = c.size['N'], groups = c.size['G'];
  const std::int64_t seqlen = c.seqlen();
  std::vector<Bounded> all_y = all_unspecified(c.size['B'] * seqlen * dim), states;
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
        all_y[static_cast<std::size_t>(at)] = y;
      }
      states.insert(states.end(), h.begin(), h.end());
    }
  }
  return {all_y, states};
}

// What kernels that compute with matrices may add to the errors of one head's columns, token by
// token. A kernel works on chunks of at most 64 tokens, which start anywhere. It rounds to the
// activations' type: for each pair of tokens i >= j, S = (C_i . B_j) decay dt_j, which multiplies
// x_j; for each j, W = B_j decay dt_j, which multiplies x_j and becomes state; and a copy of the
// state at the chunk's start, which C_i multiplies. Each rounding adds a `unit` of the magnitude,
// or of numbers below the smallest normal one a `tiny`; what exceeds `max` may become infinite.
class Coarse {
 public:
  Coarse(const Case& c, Precision precision, std::int64_t b, std::int64_t head)
      : c_(c), dstate_(c.size['N']), headdim_(c.size['P']) {
    if (precision == Precision::kFloat32 || c.op->name != "SSDChunkScan") return;
    joined_ = c.seqlen() >= kShortestSplit;
    matrices_ =
        c.type != ElementType::kFloat32 && dstate_ % 16 == 0 && dstate_ <= 256 && headdim_ % 8 == 0;
    if (!joined_ && !matrices_) return;
    const Format type = format(c.type);
    // An exponent of 2 down to -127, rounded twice, and its power add less than 2^-16.
    unit_ = std::ldexp(1.0, -type.precision) + 0x1p-16;
    tiny_ = std::ldexp(1.0, type.min_exponent - type.precision);
    max_ = type.max * (1 - 2 * unit_);
    const auto states = static_cast<std::size_t>(dstate_ * headdim_);
    magnitude_.resize(states);
    undecayed_.resize(states);
    weight_.resize(static_cast<std::size_t>(dstate_));
    largest_.resize(static_cast<std::size_t>(dstate_));
    const auto columns = static_cast<std::size_t>(headdim_);
    input_.resize(columns);
    large_.assign(columns, -kChunk - 1);
    spoilt_.resize(columns);
    const std::int64_t heads = c.size['H'];
    for (std::int64_t i = 0; i < dstate_ * headdim_; ++i) {
      const double h =
          std::fabs(exact(c["ssm_state"], (b * heads + head) * dstate_ * headdim_ + i).value);
      magnitude_[static_cast<std::size_t>(i)] = undecayed_[static_cast<std::size_t>(i)] = h;
      if (!(h <= max_)) large_[static_cast<std::size_t>(i % headdim_)] = -1;
    }
    // What is masked is multiplied by 0: a number that is not finite spoils tokens before it.
    for (std::int64_t t = 0; t < c.length(b); ++t) {
      for (std::int64_t p = 0; p < headdim_; ++p) {
        const std::int64_t at = ((b * c.seqlen() + t) * heads + head) * headdim_ + p;
        if (!exact(c["x"], at).finite()) spoilt_[static_cast<std::size_t>(p)] = true;
      }
    }
  }

  // A token's decay and step; B at `row`.
  void step(Bounded a, Bounded dt, std::int64_t row) {
    ++token_;
    if (!active()) return;
    decay_ = a.value;
    for (std::int64_t n = 0; n < dstate_; ++n) {
      const double B = std::fabs(exact(c_["B"], row + n).value);
      double& weight = weight_[static_cast<std::size_t>(n)];
      double& largest = largest_[static_cast<std::size_t>(n)];
      weight = std::max(a.value * weight, std::fabs(dt.value) * B);
      largest = std::max(largest, B);
    }
  }

  // The state after a token, which added `input`.
  void add(Bounded& state, std::int64_t n, std::int64_t p, Bounded input) {
    if (!active()) return;
    const auto at = static_cast<std::size_t>(n * headdim_ + p);
    magnitude_[at] = decay_ * magnitude_[at] + std::fabs(input.value);
    undecayed_[at] += std::fabs(input.value);
    if (!state.finite()) return;
    state.error += 2 * kUnit * magnitude_[at];  // a segment's own state may be larger than the sum
    if (!matrices_) return;
    if (!(magnitude_[at] <= max_)) large_[static_cast<std::size_t>(p)] = token_;
    state.error += (unit_ + 2 * kChunk * kUnit) * std::fabs(input.value);
    if (weight_[static_cast<std::size_t>(n)] > max_) state = unspecified();
  }

  // x of a token.
  void see(std::int64_t p, Bounded x) {
    if (active()) input_[static_cast<std::size_t>(p)] += std::fabs(x.value);
  }

  Bounded state(Bounded h, std::int64_t n, std::int64_t p) const {
    if (!active() || !h.specified()) return h;
    if (!h.finite()) return not_finite();
    const auto at = static_cast<std::size_t>(n * headdim_ + p);
    h.error += lost() * undecayed_[at];
    if (matrices_) h.error += tiny_ * input_[static_cast<std::size_t>(p)];
    return h;
  }

  Bounded y(Bounded y, std::int64_t p, std::int64_t row) const {
    if (!active() || !y.specified()) return y;
    if (!y.finite()) return not_finite();
    const auto column = static_cast<std::size_t>(p);
    double sum = 0, undecayed = 0, C = 0, S = 0, product = 0;
    for (std::int64_t n = 0; n < dstate_; ++n) {
      const double factor = std::fabs(exact(c_["C"], row + n).value);
      const auto at = static_cast<std::size_t>(n * headdim_ + p);
      C += factor;
      sum += factor * magnitude_[at];
      undecayed += factor * undecayed_[at];
      S += factor * weight_[static_cast<std::size_t>(n)];
      product += factor * largest_[static_cast<std::size_t>(n)];
    }
    y.error += lost() * undecayed;
    if (!matrices_) return y;
    const bool overflows = S > max_ || product > kMaxFloat || undecayed > kMaxFloat ||
                           token_ - large_[column] <= kChunk;
    if (overflows || spoilt_[column]) return unspecified();
    // The sums in float32 are those of a chunk's tokens times N, and of N; they may truncate.
    const double unit = unit_ + 2 * kUnit * static_cast<double>(dstate_ + kChunk);
    y.error += 1.01 * (unit * sum + tiny_ * (C * input_[column] + C + input_[column]));
    return y;
  }

 private:
  static constexpr std::int64_t kChunk = 64;
  static constexpr std::int64_t kShortestSplit = 256;  // tokens; a shorter sequence is one segment

  bool active() const { return joined_ || matrices_; }
  // Each decay over many tokens may be 0 below the smallest normal number.
  double lost() const { return kSmallNormal * static_cast<double>(token_ + 2); }
  // NaN or infinite.
  static Bounded not_finite() { return {not_a_number().value, 1}; }

  const Case& c_;
  std::int64_t dstate_, headdim_;
  bool joined_ = false;
  bool matrices_ = false;
  double unit_ = 0, tiny_ = 0, max_ = 0;
  std::int64_t token_ = -1;
  double decay_ = 0;
  std::vector<double> magnitude_;    // [N,P]: the state's terms, without their signs
  std::vector<double> undecayed_;    // [N,P]: and without decay
  std::vector<double> weight_;       // [N]: the largest W so far, decayed
  std::vector<double> largest_;      // [N]: the largest B so far
  std::vector<double> input_;        // [P]: the sum of |x|
  std::vector<std::int64_t> large_;  // [P]: the last token after which the copy may overflow
  std::vector<bool> spoilt_;         // [P]: some x is not finite
};

// What Mamba-2's recurrence takes of the convolution: x, B and C by name.
using Convolved = std::map<std::string, std::vector<Bounded>>;

Convolved convolved_of(const Case& c) {
  Convolved all;
  for (const char* name : {"x", "B", "C"}) {
    for (const float value : c[name]) all[name].push_back({static_cast<double>(value), 0});
  }
  return all;
}

Expected ssd_chunk_scan(const Case& c, Convolved convolved, Precision precision) {
  const std::int64_t heads = c.size['H'], headdim = c.size['P'];
  const std::int64_t dstate = c.size['N'], groups = c.size['G'];
  const std::int64_t seqlen = c.seqlen();
  std::vector<Bounded> all_y = all_unspecified(c.size['B'] * seqlen * heads * headdim), states;
  const auto &x = convolved["x"], &B = convolved["B"], &C = convolved["C"];
  const auto &A = c["A"], &D = c["D"];
  for (std::int64_t b = 0; b < c.size['B']; ++b) {
    for (std::int64_t head = 0; head < heads; ++head) {
      const std::int64_t group = head / (heads / groups);
      std::vector<Bounded> h;  // [N,P]
      for (std::int64_t i = 0; i < dstate * headdim; ++i) {
        h.push_back(exact(c["ssm_state"], (b * heads + head) * dstate * headdim + i));
      }
      Coarse coarse(c, precision, b, head);
      for (std::int64_t t = 0; t < c.length(b); ++t) {
        const std::int64_t token = b * seqlen + t;
        const std::int64_t at = token * heads + head;
        const Bounded dt = clamp(time_step(c, at, head), c.dt_min, c.dt_max);
        const Bounded a = decay_of(dt, exact(A, head));
        const std::int64_t row = (token * groups + group) * dstate;
        coarse.step(a, dt, row);
        for (std::int64_t p = 0; p < headdim; ++p) {
          const Bounded input = x[static_cast<std::size_t>(at * headdim + p)];
          coarse.see(p, input);
          Sum sum;
          sum.add(exact(D, head) * input);
          for (std::int64_t n = 0; n < dstate; ++n) {
            Bounded& state = h[static_cast<std::size_t>(n * headdim + p)];
            const auto key = static_cast<std::size_t>(row + n);
            const Bounded added = product(dt, input, B[key]);
            state = a * state + added;
            coarse.add(state, n, p, added);
            sum.add(C[key] * state);
          }
          all_y[static_cast<std::size_t>(at * headdim + p)] = coarse.y(sum.total(), p, row);
        }
      }
      for (std::int64_t i = 0; i < dstate * headdim; ++i) {
        states.push_back(coarse.state(h[static_cast<std::size_t>(i)], i / headdim, i % headdim));
      }
    }
  }
  return {all_y, states};
}

// One token: the convolution's y lies in the activations' type before the recurrence takes it.
Expected conv_ssd_state_update(const Case& c, Precision precision) {
  Expected convolved = causal_conv1d(c);
  for (Bounded& value : convolved[0]) value = stored(c.type, value);
  const Expected advanced = ssd_chunk_scan(c, split_channels(c, convolved[0]), precision);
  return {advanced[0], convolved[1], advanced[1]};
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
  std::vector<Bounded> y, stream;
  for (std::int64_t r = 0; r < c.size['R']; ++r) {
    std::vector<Bounded> hidden;
    for (std::int64_t at = r * dim; at < (r + 1) * dim; ++at) {
      // One float32 addition, stored as the stream's type: there is one right answer.
      const double sum = exact(c["hidden"], at).value + exact(c["delta"], at).value;
      hidden.push_back({round_to(c.residual, round_to(ElementType::kFloat32, sum)), 0});
    }
    const Bounded scale = inverse_rms(c, hidden);
    for (std::int64_t d = 0; d < dim; ++d) {
      y.push_back(product(hidden[static_cast<std::size_t>(d)], scale, exact(c["weight"], d)));
    }
    stream.insert(stream.end(), hidden.begin(), hidden.end());
  }
  return {y, stream};
}

Expected gated_rms_norm(const Case& c) {
  const std::int64_t groups = c.size['G'], width = c.size['D'] / groups;
  std::vector<Bounded> y;
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
      const Bounded normed = product(values[k], scale, weight);
      y.push_back(c.norm_before_gate ? normed * gates[k] : normed);
    }
  }
  return {y};
}

}  // namespace

Expected reference(const Case& c, Precision precision) {
  switch (c.op->kind) {
    case Kind::kConv:
      return causal_conv1d(c);
    case Kind::kSelective:
      return selective_scan(c);
    case Kind::kSSD:
      return ssd_chunk_scan(c, convolved_of(c), precision);
    case Kind::kConvSSD:
      return conv_ssd_state_update(c, precision);
    case Kind::kAddNorm:
      return add_rms_norm(c);
    case Kind::kGatedNorm:
      return gated_rms_norm(c);
  }
  return {};
}

}  // namespace mamba_export::testing
