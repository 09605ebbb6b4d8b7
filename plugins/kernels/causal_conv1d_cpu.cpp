// The convolution on the CPU: lane = channel. A block of channels walks through time with the last
// K-1 rows of x still in cache, so every sample comes from memory once.
#include "causal_conv1d.h"
#include "cpu_kernel.h"
#include "vector_math.h"

namespace mamba_export::MAMBA_EXPORT_ISA {
namespace {

constexpr std::int64_t kMaxWidth = 4;
constexpr std::int64_t kBlock = 256;  // channels of an item: four rows of them stay in L1
static_assert(kBlock % kLanes == 0);

// One row of the batch and up to kBlock channels of it.
template <class T>
struct Block {
  const T* x;           // [T,C] at the block's first channel
  const T* weight;      // [channels,K]
  const T* bias;        // [channels]
  const T* conv_state;  // [channels,K-1]
  T* y;                 // [T,C]
  T* conv_state_out;    // [channels,K-1]
  std::int64_t stride;  // C
  std::int64_t channels;
  std::int64_t seqlen;
  std::int64_t valid;  // tokens of this row that are no padding
};

template <class T, int K, bool kSilu>
void convolve(const Block<T>& block) {
  alignas(64) float taps[K][kBlock];
  alignas(64) T before[K - 1][kBlock];  // x before t = 0, oldest first
  const std::int64_t channels = block.channels;
  for (std::int64_t c = 0; c < channels; ++c) {
    for (int k = 0; k < K - 1; ++k) before[k][c] = block.conv_state[c * (K - 1) + k];
  }
  for (std::int64_t c = 0; c < channels; c += kLanes) {
    const int lanes = static_cast<int>(lesser(kLanes, channels - c));
    for (int k = 0; k < K; ++k) {
      T column[kLanes] = {};
      for (int i = 0; i < lanes; ++i) column[i] = block.weight[(c + i) * K + k];
      store(&taps[k][c], load(column));
    }
  }
  for (std::int64_t t = 0; t < block.seqlen; ++t) {
    const T* rows[K];
    for (int k = 0; k < K; ++k) {
      const std::int64_t at = t - (K - 1) + k;
      rows[k] = at < 0 ? before[K - 1 + at] : block.x + at * block.stride;
    }
    T* const y = block.y + t * block.stride;
    for (std::int64_t c = 0; c < channels; c += kLanes) {
      const int lanes = static_cast<int>(lesser(kLanes, channels - c));
      Vec sum = load(block.bias + c, lanes);
      for (int k = 0; k < K; ++k) sum = fma(load(&taps[k][c]), load(rows[k] + c, lanes), sum);
      store(y + c, kSilu ? silu(sum) : sum, lanes);
    }
  }
  // Copied bit by bit: the state is raw input.
  for (int k = 0; k < K - 1; ++k) {
    const std::int64_t at = block.valid - (K - 1) + k;
    const T* const row = at < 0 ? before[K - 1 + at] : block.x + at * block.stride;
    for (std::int64_t c = 0; c < channels; ++c) {
      block.conv_state_out[c * (K - 1) + k] = row[c];
    }
  }
}

template <class T, int K>
void choose_activation(const Block<T>& block, bool silu) {
  return silu ? convolve<T, K, true>(block) : convolve<T, K, false>(block);
}

// Without `seqlens` no row has padding.
template <class T>
void run(const CausalConv1dUpdateParams& p, std::int64_t seqlen, const std::int32_t* seqlens,
         const ParallelFor& parallel_for) {
  const std::int64_t blocks = (p.channels + kBlock - 1) / kBlock;
  const std::int64_t columns = p.width - 1;
  const double item_ns = 1.0 * static_cast<double>(kBlock) * static_cast<double>(seqlen + 1);
  parallel_for(p.batch * blocks, item_ns, [&](std::int64_t item) {
    const std::int64_t b = item / blocks;
    const std::int64_t c = item % blocks * kBlock;
    const std::int64_t state = (b * p.channels + c) * columns;
    const Block<T> block = {
        static_cast<const T*>(p.x) + b * seqlen * p.channels + c,
        static_cast<const T*>(p.weight) + c * p.width,
        static_cast<const T*>(p.bias) + c,
        static_cast<const T*>(p.conv_state) + state,
        static_cast<T*>(p.y) + b * seqlen * p.channels + c,
        static_cast<T*>(p.conv_state_out) + state,
        p.channels,
        lesser(kBlock, p.channels - c),
        seqlen,
        seqlens == nullptr ? seqlen : seqlens[b],
    };
    static_assert(kMaxWidth == 4);
    if (p.width == 4) return choose_activation<T, 4>(block, p.silu);
    if (p.width == 3) return choose_activation<T, 3>(block, p.silu);
    return choose_activation<T, 2>(block, p.silu);
  });
}

}  // namespace

void causal_conv1d(const CausalConv1dParams& p, const ParallelFor& parallel_for) {
  with_element(p.type,
               [&](auto element) { run<decltype(element)>(p, p.seqlen, p.seqlens, parallel_for); });
}

void causal_conv1d_update(const CausalConv1dUpdateParams& p, const ParallelFor& parallel_for) {
  with_element(p.type, [&](auto element) { run<decltype(element)>(p, 1, nullptr, parallel_for); });
}

}  // namespace mamba_export::MAMBA_EXPORT_ISA
