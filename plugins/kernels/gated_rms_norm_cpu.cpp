// The gated RMS norm on the CPU: lane = channel, a group of a row at a time, twice over it. The
// gated values of the first pass stay in float32 on the stack for the second; only those of a group
// wider than that are formed again.
#include "cpu_kernel.h"
#include "gated_rms_norm.h"
#include "mean_square.h"
#include "vector_math.h"

namespace mamba_export::MAMBA_EXPORT_ISA {
namespace {

constexpr std::int64_t kKept = 8192;  // no published model has a wider group
static_assert(kKept % kLanes == 0);

template <class T, bool kNormBeforeGate>
void normalise_group(const GatedRMSNormParams& p, std::int64_t first, const float* weight) {
  const std::int64_t width = p.dim / p.ngroups;
  const T* const x = static_cast<const T*>(p.x) + first;
  const T* const z = static_cast<const T*>(p.z) + first;
  T* const y = static_cast<T*>(p.y) + first;
  const auto gate = [&](std::int64_t d, int lanes) { return silu(load(z + d, lanes)); };
  const auto gated = [&](std::int64_t d, int lanes) { return load(x + d, lanes) * gate(d, lanes); };

  alignas(64) float kept[kNormBeforeGate ? kLanes : kKept];
  const float scale = inverse_rms(width, p.eps, [&](std::int64_t d, int lanes) {
    if constexpr (kNormBeforeGate) return load(x + d, lanes);
    const Vec value = gated(d, lanes);
    if (d < kKept) store(kept + d, value);
    return value;
  });
  for (std::int64_t d = 0; d < width; d += kLanes) {
    const int lanes = static_cast<int>(width - d < kLanes ? width - d : kLanes);
    const Vec w = load(weight + d, lanes);
    if constexpr (kNormBeforeGate) {
      store(y + d, load(x + d, lanes) * set1(scale) * w * gate(d, lanes), lanes);
    } else {
      const Vec value = d < kKept ? load(kept + d) : gated(d, lanes);
      store(y + d, value * set1(scale) * w, lanes);
    }
  }
}

template <class T>
void run(const GatedRMSNormParams& p, const ParallelFor& parallel_for) {
  for_each_row(parallel_for, p.rows, p.dim, 1.0, [&](std::int64_t r) {
    for (std::int64_t g = 0; g < p.ngroups; ++g) {
      const std::int64_t channel = g * (p.dim / p.ngroups);
      const std::int64_t first = r * p.dim + channel;
      if (p.norm_before_gate) {
        normalise_group<T, true>(p, first, p.weight + channel);
      } else {
        normalise_group<T, false>(p, first, p.weight + channel);
      }
    }
  });
}

}  // namespace

void gated_rms_norm(const GatedRMSNormParams& p, const ParallelFor& parallel_for) {
  with_element(p.type, [&](auto element) { run<decltype(element)>(p, parallel_for); });
}

}  // namespace mamba_export::MAMBA_EXPORT_ISA
