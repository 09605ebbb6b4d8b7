// One token of Mamba's recurrence on a GPU: a copy of the state, with some arithmetic on the way.
// Adjacent lanes share a channel, each with four adjacent states at a time, so a warp reads and
// writes whole lines; nobody else reads what a lane writes, so the state may be updated in place.
#include "cuda_device.cuh"
#include "cuda_kernels.h"
#include "selective_state_update.cuh"

namespace mamba_export {
namespace cuda {
namespace {

constexpr int kStates = 4;  // of a lane at a time
constexpr int kThreads = 128;

struct Token {
  SelectiveStateUpdateParams p;
  const std::int32_t* seqlens;  // or null
  unsigned lanes;               // of a channel
  unsigned items;               // lanes in all
  unsigned threads;             // of a block
};

// What a lane has of a channel; where a row ends inside, zeros.
struct Operands {
  float h[kStates], A[kStates], B[kStates], C[kStates];
};

template <bool kWide, class T>
__device__ __forceinline__ void load_states(float (&to)[kStates], const T* from, int left) {
  if constexpr (kWide) {
    load<kStates>(to, from);
  } else {
#pragma unroll
    for (int i = 0; i < kStates; ++i) to[i] = i < left ? to_float(from[i]) : 0.0f;
  }
}

// kWide: rows of states consist of whole, aligned vectors.
template <class T, bool kWide>
__global__ void __launch_bounds__(kThreads) update(Token token) {
  const SelectiveStateUpdateParams& p = token.p;
  unsigned item = blockIdx.x * token.threads + threadIdx.x;
  const bool exists = item < token.items;
  if (!exists) item = token.items - 1;  // has no states, but takes part in its warp's sums
  const auto lane = static_cast<int>(item % token.lanes);
  const unsigned channel = item / token.lanes;  // in all rows
  const auto dim = static_cast<unsigned>(p.dim);
  const unsigned b = channel / dim;
  const unsigned d = channel % dim;
  const unsigned group = d / (dim / static_cast<unsigned>(p.ngroups));
  const auto dstate = static_cast<int>(p.dstate);

  const std::int64_t row = (b * p.ngroups + group) * p.dstate;
  const T* const B = static_cast<const T*>(p.B) + row;
  const T* const C = static_cast<const T*>(p.C) + row;
  const float* const A = p.A + d * p.dstate;
  const float* const past = p.ssm_state + channel * p.dstate;
  float* const present = p.ssm_state_out + channel * p.dstate;
  const auto operands = [&](int n) {
    Operands o;
    load_states<kWide>(o.h, past + n, dstate - n);
    load_states<kWide>(o.A, A + n, dstate - n);
    load_states<kWide>(o.B, B + n, dstate - n);
    load_states<kWide>(o.C, C + n, dstate - n);
    return o;
  };

  // All loads are on their way before the first of them is needed.
  int n = exists ? lane * kStates : dstate;
  Operands o{};
  if (n < dstate) o = operands(n);
  const float x = to_float(static_cast<const T*>(p.x)[channel]);
  const float z = p.gated ? to_float(static_cast<const T*>(p.z)[channel]) : 0.0f;
  const float skip = p.D[d];
  const bool valid = valid_tokens(token.seqlens, b, 1) > 0;
  const float dt =
      step_size(to_float(static_cast<const T*>(p.dt)[channel]), p.dt_bias[d], p.dt_softplus);
  const float dtx = dt * x;

  float sum = 0;
  while (n < dstate) {
#pragma unroll
    for (int i = 0; i < kStates; ++i) {
      if (!kWide && n + i >= dstate) break;
      const float h = fmaf(decay(dt, o.A[i] * kLog2E), o.h[i], dtx * o.B[i]);
      sum = fmaf(h, o.C[i], sum);
      o.h[i] = valid ? h : o.h[i];
    }
    if constexpr (kWide) {
      store<kStates>(present + n, o.h);
    } else {
#pragma unroll
      for (int i = 0; i < kStates; ++i) {
        if (n + i < dstate) present[n + i] = o.h[i];
      }
    }
    n += static_cast<int>(token.lanes) * kStates;
    if (n < dstate) o = operands(n);
  }
  for (int by = static_cast<int>(token.lanes) / 2; by > 0; by /= 2) {
    sum += __shfl_xor_sync(kAllLanes, sum, by);
  }
  if (!exists || lane != 0) return;
  float y = fmaf(skip, x, sum);
  if (p.gated) y *= silu(z);
  static_cast<T*>(p.y)[channel] = from_float<T>(valid ? y : 0.0f);
}

template <class T>
cudaError_t run(const SelectiveStateUpdateParams& p, const std::int32_t* seqlens,
                cudaStream_t stream) {
  int processors = 0;
  const cudaError_t error = device_attribute(cudaDevAttrMultiProcessorCount, &processors);
  if (error != cudaSuccess) return error;
  unsigned lanes = 1;
  while (lanes < kWarp && lanes * kStates < p.dstate) lanes *= 2;
  const std::int64_t items = p.batch * p.dim * lanes;
  if (items > kMaxItems) return cudaErrorInvalidValue;
  const bool wide = p.dstate % kStates == 0 && aligned(p.A) && aligned(p.ssm_state) &&
                    aligned(p.ssm_state_out) && aligned(p.B, kStates * sizeof(T)) &&
                    aligned(p.C, kStates * sizeof(T));
  // Where there is little to do, small blocks bring it to more multiprocessors.
  const int threads = items >= std::int64_t{2} * kThreads * processors ? kThreads : kWarp;
  const Token token = {p, seqlens, lanes, static_cast<unsigned>(items),
                       static_cast<unsigned>(threads)};
  return launch(wide ? update<T, true> : update<T, false>, blocks_of(items, threads), threads, 0,
                stream, token);
}

}  // namespace

cudaError_t launch_one_token(const SelectiveStateUpdateParams& p, const std::int32_t* seqlens,
                             cudaStream_t stream) {
  return with_element(p.type,
                      [&](auto element) { return run<decltype(element)>(p, seqlens, stream); });
}

}  // namespace cuda

std::size_t selective_state_update_workspace(const SelectiveStateUpdateParams&) { return 0; }
std::size_t selective_state_update_most_workspace(const SelectiveStateUpdateParams&) { return 0; }

cudaError_t launch_selective_state_update(const SelectiveStateUpdateParams& p, void*,
                                          cudaStream_t stream) {
  return cuda::launch_one_token(p, nullptr, stream);
}

}  // namespace mamba_export
