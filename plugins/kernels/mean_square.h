// What the norms share: the mean square of a row, and how rows are dealt out.
#pragma once

#include "simd.h"

namespace mamba_export::MAMBA_EXPORT_ISA {
namespace {

// Elements of an item. It does not depend on the number of threads, so neither does a result.
constexpr std::int64_t kItem = 16384;

// Calls `row(r)` for 0 <= r < rows, each of `dim` elements that cost `element_ns`, on all threads.
template <class F>
void for_each_row(const ParallelFor& parallel_for, std::int64_t rows, std::int64_t dim,
                  double element_ns, const F& row) {
  const std::int64_t block = dim < kItem ? kItem / (dim > 0 ? dim : 1) : 1;
  const double item_ns = element_ns * static_cast<double>(block) * static_cast<double>(dim);
  parallel_for((rows + block - 1) / block, item_ns, [&](std::int64_t item) {
    const std::int64_t first = item * block;
    const std::int64_t end = first + block < rows ? first + block : rows;
    for (std::int64_t r = first; r < end; ++r) row(r);
  });
}

// 1 / sqrt(mean of v^2 + eps) over `size` numbers. `value(i, lanes)` returns the numbers from i on,
// 0 in other lanes; it is called once for each. Several sums in turn hide the latency of an
// addition, and each rounds less than one sum would.
template <class F>
float inverse_rms(std::int64_t size, float eps, const F& value) {
  Vec sums[4] = {zero(), zero(), zero(), zero()};
  std::int64_t i = 0;
  for (; i + 4 * kLanes <= size; i += 4 * kLanes) {
    for (int k = 0; k < 4; ++k) {
      const Vec v = value(i + k * kLanes, kLanes);
      sums[k] = fma(v, v, sums[k]);
    }
  }
  for (; i < size; i += kLanes) {
    const Vec v = value(i, static_cast<int>(size - i < kLanes ? size - i : kLanes));
    sums[0] = fma(v, v, sums[0]);
  }
  const float total = sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
  return 1.0f / __builtin_sqrtf(total / static_cast<float>(size) + eps);
}

}  // namespace
}  // namespace mamba_export::MAMBA_EXPORT_ISA
