// Times a prefill kernel against the plain loop it replaces, on one thread, and prints JSON.
//
// The plain loops are a straightforward port to C: token by token, the state as it lies in memory,
// exp from the C library, one compiler flag: -O3. Both sides get the same inputs at the shapes of
// the 130m models, must agree, and then take turns.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "cpu_isa.h"
#include "random.h"

namespace mamba_export {
namespace {

using Floats = std::vector<float>;

constexpr std::int64_t kTokens = 512;
constexpr int kTurns = 9;
constexpr double kTolerance = 1e-4;  // of a sum of at most 128 terms, relative to 1 + |it|

template <class Draw>
Floats draw(std::int64_t count, const Draw& value) {
  Floats values(static_cast<std::size_t>(count));
  for (float& x : values) x = static_cast<float>(value());
  return values;
}

float softplus(float x) { return x > 20.0f ? x : std::log1p(std::exp(x)); }
float silu(float x) { return x / (1.0f + std::exp(-x)); }

// Activations as trained models have them: constants would change power and denormals.
struct Inputs {
  testing::Random random{1, 0};
  Floats normal(std::int64_t count) {
    return draw(count, [&] { return random.normal(); });
  }
  Floats dt(std::int64_t count) {
    return draw(count, [&] { return random.normal() - 4; });
  }
  Floats decay(std::int64_t count) {
    return draw(count, [&] { return random.uniform(-16, -1); });
  }
};

void plain_scan(const SelectiveScanParams& p) {
  const auto* x = static_cast<const float*>(p.x);
  const auto* z = static_cast<const float*>(p.z);
  const auto* dt_in = static_cast<const float*>(p.dt);
  auto* y = static_cast<float*>(p.y);
  for (std::int64_t t = 0; t < p.seqlen; ++t) {
    const float* B = static_cast<const float*>(p.B) + t * p.dstate;
    const float* C = static_cast<const float*>(p.C) + t * p.dstate;
    for (std::int64_t d = 0; d < p.dim; ++d) {
      const std::int64_t at = t * p.dim + d;
      const float dt = softplus(dt_in[at] + p.dt_bias[d]);
      float sum = p.D[d] * x[at];
      for (std::int64_t n = 0; n < p.dstate; ++n) {
        float& h = p.ssm_state_out[d * p.dstate + n];
        h = std::exp(dt * p.A[d * p.dstate + n]) * h + dt * x[at] * B[n];
        sum += C[n] * h;
      }
      y[at] = sum * silu(z[at]);
    }
  }
}

void plain_ssd(const SSDChunkScanParams& p) {
  const auto* x = static_cast<const float*>(p.x);
  const auto* dt_in = static_cast<const float*>(p.dt);
  auto* y = static_cast<float*>(p.y);
  for (std::int64_t t = 0; t < p.seqlen; ++t) {
    const float* B = static_cast<const float*>(p.B) + t * p.dstate;
    const float* C = static_cast<const float*>(p.C) + t * p.dstate;
    for (std::int64_t head = 0; head < p.nheads; ++head) {
      const float dt = softplus(dt_in[t * p.nheads + head] + p.dt_bias[head]);
      const float decay = std::exp(dt * p.A[head]);
      const float* in = x + (t * p.nheads + head) * p.headdim;
      float* out = y + (t * p.nheads + head) * p.headdim;
      for (std::int64_t c = 0; c < p.headdim; ++c) out[c] = p.D[head] * in[c];
      for (std::int64_t n = 0; n < p.dstate; ++n) {
        float* h = p.ssm_state_out + (head * p.dstate + n) * p.headdim;
        for (std::int64_t c = 0; c < p.headdim; ++c) {
          h[c] = decay * h[c] + dt * in[c] * B[n];
          out[c] += C[n] * h[c];
        }
      }
    }
  }
}

void plain_conv(const CausalConv1dParams& p) {
  const auto* x = static_cast<const float*>(p.x);
  const auto* weight = static_cast<const float*>(p.weight);
  const auto* bias = static_cast<const float*>(p.bias);
  auto* y = static_cast<float*>(p.y);
  auto* state = static_cast<float*>(p.conv_state_out);
  const std::int64_t past = p.width - 1;
  for (std::int64_t t = 0; t < p.seqlen; ++t) {
    for (std::int64_t c = 0; c < p.channels; ++c) {
      float* window = state + c * past;
      const float newest = x[t * p.channels + c];
      float sum = bias[c] + weight[c * p.width + past] * newest;
      for (std::int64_t k = 0; k < past; ++k) sum += weight[c * p.width + k] * window[k];
      for (std::int64_t k = 0; k + 1 < past; ++k) window[k] = window[k + 1];
      window[past - 1] = newest;
      y[t * p.channels + c] = silu(sum);
    }
  }
}

template <class Run>
double nanoseconds(const Run& run) {
  const auto start = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count();
}

// What each side writes; it also carries its state from one turn to the next.
struct Side {
  Floats y, state;
};

double worst_error(const Side& ours, const Side& plain) {
  double worst = 0;
  const auto compare = [&](const Floats& a, const Floats& b) {
    for (std::size_t i = 0; i < a.size(); ++i) {
      const double error = std::fabs(a[i] - b[i]) / (1.0 + std::fabs(b[i]));
      if (!(error <= worst)) worst = std::isfinite(error) ? error : HUGE_VAL;
    }
  };
  compare(ours.y, plain.y);
  compare(ours.state, plain.state);
  return worst;
}

void print_samples(const char* name, const std::vector<double>& samples) {
  std::printf(", \"%s\": [", name);
  for (std::size_t i = 0; i < samples.size(); ++i) std::printf("%s%.0f", i ? ", " : "", samples[i]);
  std::printf("]");
}

// Compares the two sides once, then times them in turns. Returns whether they agree.
//
// `bind` stores where a side's y and state are; that is all in which the two calls differ.
template <class Params, class Bind>
bool measure(const char* name, void (*kernel)(const Params&, const ParallelFor&),
             void (*loop)(const Params&), const Params& params, Side ours, const Bind& bind) {
  Side plain = ours;
  Params a = params, b = params;
  bind(a, ours);
  bind(b, plain);
  if (const std::string problem = validate(a); !problem.empty()) {
    std::fprintf(stderr, "%s: %s\n", name, problem.c_str());
    return false;
  }
  const auto run_ours = [&] { kernel(a, ParallelFor()); };
  const auto run_plain = [&] { loop(b); };
  run_ours();
  run_plain();
  const double error = worst_error(ours, plain);
  if (!(error <= kTolerance)) {
    std::fprintf(stderr, "%s: differs from the plain loop by %g, at most %g is allowed\n", name,
                 error, kTolerance);
    return false;
  }
  std::vector<double> ours_ns, plain_ns;
  for (int turn = 0; turn < kTurns; ++turn) {
    ours_ns.push_back(nanoseconds(run_ours));
    plain_ns.push_back(nanoseconds(run_plain));
    ours_ns.push_back(nanoseconds(run_ours));
  }
  std::printf("{\"kernel\": \"%s\", \"isa\": \"%s\", \"tokens\": %lld, \"error\": %.3g", name,
              cpu_kernels().isa, static_cast<long long>(kTokens), error);
  print_samples("ours_ns", ours_ns);
  print_samples("plain_ns", plain_ns);
  std::printf("}\n");
  return true;
}

constexpr auto kBindScan = [](auto& p, Side& side) {
  p.y = side.y.data();
  p.ssm_state = p.ssm_state_out = side.state.data();
};

bool bench_scan() {
  SelectiveScanParams p;
  p.batch = 1;
  p.seqlen = kTokens;
  p.dim = 1536;
  p.dstate = 16;
  p.ngroups = 1;
  p.dt_softplus = p.gated = true;
  Inputs in;
  const Floats x = in.normal(kTokens * p.dim), z = in.normal(kTokens * p.dim);
  const Floats dt = in.dt(kTokens * p.dim), A = in.decay(p.dim * p.dstate);
  const Floats B = in.normal(kTokens * p.dstate), C = in.normal(kTokens * p.dstate);
  const Floats D = in.normal(p.dim), dt_bias(static_cast<std::size_t>(p.dim), 0.0f);
  const std::int32_t seqlens = kTokens;
  p.x = x.data(), p.z = z.data(), p.dt = dt.data(), p.A = A.data(), p.B = B.data();
  p.C = C.data(), p.D = D.data(), p.dt_bias = dt_bias.data(), p.seqlens = &seqlens;
  return measure("selective_scan", cpu_kernels().selective_scan, plain_scan, p,
                 {Floats(x.size()), Floats(A.size())}, kBindScan);
}

bool bench_ssd() {
  SSDChunkScanParams p;
  p.batch = 1;
  p.seqlen = kTokens;
  p.nheads = 24;
  p.headdim = 64;
  p.dstate = 128;
  p.ngroups = 1;
  p.dt_softplus = true;
  p.dt_max = HUGE_VALF;
  Inputs in;
  const Floats x = in.normal(kTokens * p.nheads * p.headdim), dt = in.dt(kTokens * p.nheads);
  const Floats B = in.normal(kTokens * p.dstate), C = in.normal(kTokens * p.dstate);
  const Floats A = in.decay(p.nheads), D = in.normal(p.nheads);
  const Floats dt_bias(static_cast<std::size_t>(p.nheads), 0.0f);
  const std::int32_t seqlens = kTokens;
  p.x = x.data(), p.dt = dt.data(), p.A = A.data(), p.B = B.data(), p.C = C.data();
  p.D = D.data(), p.dt_bias = dt_bias.data(), p.seqlens = &seqlens;
  const auto states = static_cast<std::size_t>(p.nheads * p.dstate * p.headdim);
  return measure("ssd_chunk_scan", cpu_kernels().ssd_chunk_scan, plain_ssd, p,
                 {Floats(x.size()), Floats(states)}, kBindScan);
}

bool bench_conv() {
  CausalConv1dParams p;
  p.batch = 1;
  p.seqlen = kTokens;
  p.channels = 1536;
  p.width = 4;
  p.silu = true;
  Inputs in;
  const Floats x = in.normal(kTokens * p.channels), weight = in.normal(p.channels * p.width);
  const Floats bias = in.normal(p.channels);
  const std::int32_t seqlens = kTokens;
  p.x = x.data(), p.weight = weight.data(), p.bias = bias.data(), p.seqlens = &seqlens;
  const auto states = static_cast<std::size_t>(p.channels * (p.width - 1));
  return measure("causal_conv1d", cpu_kernels().causal_conv1d, plain_conv, p,
                 {Floats(x.size()), Floats(states)}, [](CausalConv1dParams& bound, Side& side) {
                   bound.y = side.y.data();
                   bound.conv_state = bound.conv_state_out = side.state.data();
                 });
}

}  // namespace
}  // namespace mamba_export

// kernel_bench KERNEL
int main(int count, char** arguments) {
  using namespace mamba_export;
  const std::string kernel = count == 2 ? arguments[1] : "";
  bool agree = false;
  if (kernel == "selective_scan") {
    agree = bench_scan();
  } else if (kernel == "ssd_chunk_scan") {
    agree = bench_ssd();
  } else if (kernel == "causal_conv1d") {
    agree = bench_conv();
  } else {
    std::fprintf(stderr, "usage: kernel_bench selective_scan|ssd_chunk_scan|causal_conv1d\n");
  }
  return agree ? EXIT_SUCCESS : EXIT_FAILURE;
}
