// Residual addition and RMS norm on the CPU: lane = channel, a row at a time. The sum is written in
// the first pass over a row and read back from L1 in the second, so the norm is that of the sum as
// it was rounded.
#include "add_rms_norm.h"
#include "cpu_kernel.h"
#include "mean_square.h"

namespace mamba_export::MAMBA_EXPORT_ISA {
namespace {

// R: element of the residual stream, T: of the activations.
template <class R, class T>
void add_and_normalise(const AddRMSNormParams& p, std::int64_t r) {
  const R* const hidden = static_cast<const R*>(p.hidden) + r * p.dim;
  const T* const delta = static_cast<const T*>(p.delta) + r * p.dim;
  R* const hidden_out = static_cast<R*>(p.hidden_out) + r * p.dim;
  T* const y = static_cast<T*>(p.y) + r * p.dim;
  const float scale = inverse_rms(p.dim, p.eps, [&](std::int64_t d, int lanes) {
    store(hidden_out + d, load(hidden + d, lanes) + load(delta + d, lanes), lanes);
    return load(hidden_out + d, lanes);
  });
  for (std::int64_t d = 0; d < p.dim; d += kLanes) {
    const int lanes = static_cast<int>(p.dim - d < kLanes ? p.dim - d : kLanes);
    const Vec normed = load(hidden_out + d, lanes) * set1(scale);
    store(y + d, normed * load(p.weight + d, lanes), lanes);
  }
}

template <class R, class T>
void run(const AddRMSNormParams& p, const ParallelFor& parallel_for) {
  for_each_row(parallel_for, p.rows, p.dim, 0.3,
               [&](std::int64_t r) { add_and_normalise<R, T>(p, r); });
}

template <class T>
void choose_residual(const AddRMSNormParams& p, const ParallelFor& parallel_for) {
  return p.residual == p.type ? run<T, T>(p, parallel_for) : run<float, T>(p, parallel_for);
}

}  // namespace

void add_rms_norm(const AddRMSNormParams& p, const ParallelFor& parallel_for) {
  with_element(p.type, [&](auto element) { choose_residual<decltype(element)>(p, parallel_for); });
}

}  // namespace mamba_export::MAMBA_EXPORT_ISA
