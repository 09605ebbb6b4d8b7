// Mamba's recurrence on the CPU. Over a sequence lane = channel: the states of a block of channels
// stay in registers from token to token, B and C are broadcast, and y needs no horizontal sum. For
// one token lane = state, as it lies in memory. Both form each state by the same operations, so a
// prefill and its steps leave the same bits.
#include "cpu_kernel.h"
#include "selective_scan.h"
#include "vector_math.h"

namespace mamba_export::MAMBA_EXPORT_ISA {
namespace {

constexpr int kMaxStates = 256;
constexpr int kSlice = kRegisters / 2;  // states of a channel that are in registers at a time
constexpr std::int64_t kChunk = 64;     // tokens whose operands are in L1 at a time
static_assert(kMaxStates % kSlice == 0 && kMaxStates % kLanes == 0);

// exp(min(dt A, 0)), with A in units of ln 2. The bound is nothing where A <= 0 and dt >= 0.
template <bool kBound = true>
Vec decay(Vec dt, Vec A) {
  return exp2_of_negative(kBound ? at_most(dt * A, 0.0f) : dt * A);
}

// ---- over a sequence ----------------------------------------------------------------------------

// The rows of B or C of a chunk for one slice of states, as float32 and filled up with zeros.
using SliceRows = float[kChunk][kSlice];

template <class T>
struct Sequence {
  const SelectiveScanParams& p;
  std::int64_t b;       // row of the batch
  std::int64_t group;   // g
  std::int64_t d;       // first channel
  int lanes;            // channels
  std::int64_t length;  // valid tokens

  // Offset of the token that step t visits in a tensor with `row` elements a token.
  std::int64_t offset(std::int64_t t, std::int64_t row) const {
    return (b * p.seqlen + (p.reverse ? length - 1 - t : t)) * row;
  }
};

template <class T>
void gather_rows(const Sequence<T>& s, const void* source, std::int64_t start, std::int64_t tokens,
                 std::int64_t n, SliceRows& rows) {
  const std::int64_t row = s.p.ngroups * s.p.dstate;
  const std::int64_t count = lesser(kSlice, s.p.dstate - n);
  for (std::int64_t t = 0; t < tokens; ++t) {
    const T* const from =
        static_cast<const T*>(source) + s.offset(start + t, row) + s.group * s.p.dstate + n;
    for (int i = 0; i < kSlice; i += kLanes) {
      const std::int64_t left = lesser(kLanes, count - i);
      store(&rows[t][i], left > 0 ? load(from + i, static_cast<int>(left)) : zero());
    }
  }
}

// Carries a slice of `states` states over the tokens of a chunk. A slice that is not full leaves
// the rest out: an infinite input times their B of 0 would be NaN.
template <bool kBound, bool kFull>
void advance(std::int64_t states, std::int64_t tokens, const float (*A)[kLanes], float (*h)[kLanes],
             const float (*dt)[kLanes], const float (*dtx)[kLanes], const SliceRows& B,
             const SliceRows& C, float (*y)[kLanes]) {
  Vec state[kSlice];
  for (int i = 0; i < kSlice; ++i) state[i] = load(h[i]);
  for (std::int64_t t = 0; t < tokens; ++t) {
    const Vec step = load(dt[t]);
    const Vec input = load(dtx[t]);
    Vec even = load(y[t]);
    Vec odd = zero();
#pragma GCC unroll 16
    for (int i = 0; i < kSlice; i += 2) {
      if (!kFull && i >= states) break;
      state[i] = fma(decay<kBound>(step, load(A[i])), state[i], input * set1(B[t][i]));
      even = fma(state[i], set1(C[t][i]), even);
      if (!kFull && i + 1 >= states) break;
      const Vec next = decay<kBound>(step, load(A[i + 1]));
      state[i + 1] = fma(next, state[i + 1], input * set1(B[t][i + 1]));
      odd = fma(state[i + 1], set1(C[t][i + 1]), odd);
    }
    store(y[t], even + odd);
  }
  for (int i = 0; i < kSlice; ++i) store(h[i], state[i]);
}

template <class T>
void scan(const Sequence<T>& s) {
  const SelectiveScanParams& p = s.p;
  const std::int64_t states = (p.dstate + kSlice - 1) / kSlice * kSlice;
  alignas(64) float A[kMaxStates][kLanes];
  alignas(64) float h[kMaxStates][kLanes];
  alignas(64) float dt[kChunk][kLanes];
  alignas(64) float dtx[kChunk][kLanes];
  alignas(64) float y[kChunk][kLanes];
  alignas(64) SliceRows B;
  alignas(64) SliceRows C;

  // Lanes and states beyond the tensor's hold zeros.
  bool bound = !p.dt_softplus;
  for (std::int64_t n = 0; n < states; ++n) {
    for (int i = 0; i < kLanes; ++i) {
      const bool inside = n < p.dstate && i < s.lanes;
      A[n][i] = inside ? p.A[(s.d + i) * p.dstate + n] * kLog2E : 0.0f;
      bound = bound || A[n][i] > 0.0f;
      h[n][i] = inside ? p.ssm_state[(s.b * p.dim + s.d + i) * p.dstate + n] : 0.0f;
    }
  }
  const Vec bias = load(p.dt_bias + s.d, s.lanes);
  const Vec skip = load(p.D + s.d, s.lanes);

  for (std::int64_t start = 0; start < s.length; start += kChunk) {
    const std::int64_t tokens = lesser(kChunk, s.length - start);
    for (std::int64_t t = 0; t < tokens; ++t) {
      const std::int64_t at = s.offset(start + t, p.dim) + s.d;
      Vec step = load(static_cast<const T*>(p.dt) + at, s.lanes) + bias;
      if (p.dt_softplus) step = softplus(step);
      store(dt[t], step);
      store(dtx[t], step * load(static_cast<const T*>(p.x) + at, s.lanes));
      store(y[t], zero());
    }
    for (std::int64_t n = 0; n < states; n += kSlice) {
      gather_rows(s, p.B, start, tokens, n, B);
      gather_rows(s, p.C, start, tokens, n, C);
      const bool full = n + kSlice <= p.dstate;
      const auto carry = bound  ? (full ? advance<true, true> : advance<true, false>)
                         : full ? advance<false, true>
                                : advance<false, false>;
      carry(p.dstate - n, tokens, A + n, h + n, dt, dtx, B, C, y);
    }
    for (std::int64_t t = 0; t < tokens; ++t) {
      const std::int64_t at = s.offset(start + t, p.dim) + s.d;
      Vec out = fma(skip, load(static_cast<const T*>(p.x) + at, s.lanes), load(y[t]));
      if (p.gated) out = out * silu(load(static_cast<const T*>(p.z) + at, s.lanes));
      store(static_cast<T*>(p.y) + at, out, s.lanes);
    }
  }
  for (std::int64_t t = s.length; t < p.seqlen; ++t) {  // padding
    store(static_cast<T*>(p.y) + (s.b * p.seqlen + t) * p.dim + s.d, zero(), s.lanes);
  }
  for (std::int64_t n = 0; n < p.dstate; ++n) {
    for (int i = 0; i < s.lanes; ++i) {
      p.ssm_state_out[(s.b * p.dim + s.d + i) * p.dstate + n] = h[n][i];
    }
  }
}

template <class T>
void run(const SelectiveScanParams& p, const ParallelFor& parallel_for) {
  const std::int64_t width = p.ngroups > 0 ? p.dim / p.ngroups : 0;  // channels of a group
  const std::int64_t blocks = (width + kLanes - 1) / kLanes;
  const double item_ns =
      0.3 * kLanes * static_cast<double>(p.dstate) * static_cast<double>(p.seqlen + 1);
  parallel_for(p.batch * p.ngroups * blocks, item_ns, [&](std::int64_t item) {
    const std::int64_t b = item / (p.ngroups * blocks);
    const std::int64_t group = item / blocks % p.ngroups;
    const std::int64_t first = item % blocks * kLanes;
    const int lanes = static_cast<int>(lesser(kLanes, width - first));
    const std::int64_t length = p.seqlens[b];
    scan<T>({p, b, group, group * width + first, lanes, length});
  });
}

// ---- one token ----------------------------------------------------------------------------------

constexpr std::int64_t kBlock = 64;  // channels of an item
static_assert(kBlock % kLanes == 0);

template <class T>
void update(const SelectiveStateUpdateParams& p, std::int64_t b, std::int64_t first,
            std::int64_t channels) {
  alignas(64) float B[kMaxStates];
  alignas(64) float C[kMaxStates];
  alignas(64) float dt[kLanes];
  alignas(64) float dtx[kLanes];
  alignas(64) float y[kLanes];
  const std::int64_t width = p.dim / p.ngroups;
  const std::int64_t states = (p.dstate + kLanes - 1) / kLanes * kLanes;
  std::int64_t group = -1;
  for (std::int64_t d = first; d < first + channels; d += kLanes) {
    const int lanes = static_cast<int>(lesser(kLanes, first + channels - d));
    const std::int64_t at = b * p.dim + d;
    const Vec x = load(static_cast<const T*>(p.x) + at, lanes);
    Vec step = load(static_cast<const T*>(p.dt) + at, lanes) + load(p.dt_bias + d, lanes);
    if (p.dt_softplus) step = softplus(step);
    store(dt, step);
    store(dtx, step * x);
    store(y, zero());
    for (int i = 0; i < lanes; ++i) {
      if ((d + i) / width != group) {
        group = (d + i) / width;
        const std::int64_t row = (b * p.ngroups + group) * p.dstate;
        for (std::int64_t n = 0; n < states; n += kLanes) {
          const int count = static_cast<int>(lesser(kLanes, p.dstate - n));
          store(B + n, load(static_cast<const T*>(p.B) + row + n, count));
          store(C + n, load(static_cast<const T*>(p.C) + row + n, count));
        }
      }
      const float* const A = p.A + (d + i) * p.dstate;
      const float* const past = p.ssm_state + (at + i) * p.dstate;
      float* const present = p.ssm_state_out + (at + i) * p.dstate;
      Vec total = zero();
      for (std::int64_t n = 0; n < states; n += kLanes) {
        const int count = static_cast<int>(lesser(kLanes, p.dstate - n));
        const Vec a = decay(set1(dt[i]), load(A + n, count) * set1(kLog2E));
        const Vec h = fma(a, load(past + n, count), set1(dtx[i]) * load(B + n));
        store(present + n, h, count);
        // Past the last state an infinite input times B = 0 is NaN.
        total = fma(keep_lanes(h, count), load(C + n), total);
      }
      y[i] = sum(total);
    }
    Vec out = fma(load(p.D + d, lanes), x, load(y));
    if (p.gated) out = out * silu(load(static_cast<const T*>(p.z) + at, lanes));
    store(static_cast<T*>(p.y) + at, out, lanes);
  }
}

template <class T>
void run(const SelectiveStateUpdateParams& p, const ParallelFor& parallel_for) {
  const std::int64_t blocks = (p.dim + kBlock - 1) / kBlock;
  // Between two steps a model's weights push state and A out of the caches: they come from memory.
  const double item_ns = 1.2 * kBlock * static_cast<double>(p.dstate);
  parallel_for(p.batch * blocks, item_ns, [&](std::int64_t item) {
    const std::int64_t first = item % blocks * kBlock;
    update<T>(p, item / blocks, first, lesser(kBlock, p.dim - first));
  });
}

}  // namespace

void selective_state_update(const SelectiveStateUpdateParams& p, const ParallelFor& parallel_for) {
  with_element(p.type, [&](auto element) { run<decltype(element)>(p, parallel_for); });
}

void selective_scan(const SelectiveScanParams& p, const ParallelFor& parallel_for) {
  if (is_one_step(p)) return selective_state_update(p, parallel_for);
  with_element(p.type, [&](auto element) { run<decltype(element)>(p, parallel_for); });
}

}  // namespace mamba_export::MAMBA_EXPORT_ISA
