// One token of Mamba's recurrence on a GPU: a copy of the state, with some arithmetic on the way.
// Adjacent lanes share a channel, each with two times four adjacent states at a time, so a warp
// reads and writes whole sectors; nobody else reads what a lane writes, so the state may be updated
// in place. A thread has its channel in a few rows of the batch: where it works is found once for
// them, and their loads are on their way together.
#include "cuda_device.cuh"
#include "cuda_kernels.h"
#include "selective_state_update.cuh"

namespace mamba_export {
namespace cuda {
namespace {

constexpr int kWidth = 4;  // adjacent states
constexpr int kParts = 2;  // of a lane at a time, with the other lanes' between them
constexpr int kStates = kParts * kWidth;
constexpr int kThreads = 128;
constexpr int kManyRows = 2;  // of the batch, in a thread

struct Token {
  SelectiveStateUpdateParams p;
  const std::int32_t* seqlens;  // or null
  unsigned lanes_log2;          // of a channel
  unsigned items;               // lanes in all
  unsigned threads;             // of a block
};

// kWide: rows of states consist of whole, aligned vectors. What does not exist is zeros.
template <bool kWide, class T>
__device__ __forceinline__ void load_states(float (&to)[kWidth], const T* from, int left) {
  const auto some = load_some<kWidth>(from, left, kWide);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) to[i] = to_float(some.element[i]);
}

template <bool kWide>
__device__ __forceinline__ void store_states(float* to, const float (&from)[kWidth], int left) {
  if constexpr (kWide) {
    if (left > 0) store<kWidth>(to, from);
  } else {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      if (i < left) to[i] = from[i];
    }
  }
}

template <class T, bool kWide, int kRows>
__global__ void __launch_bounds__(kThreads) update(Token token) {
  const SelectiveStateUpdateParams& p = token.p;
  unsigned item = blockIdx.x * token.threads + threadIdx.x;
  const bool exists = item < token.items;
  if (!exists) item = token.items - 1;  // has no states, but takes part in its warp's sums
  const int lanes = 1 << token.lanes_log2;
  const int lane = static_cast<int>(item) & (lanes - 1);
  item >>= token.lanes_log2;
  const auto dim = static_cast<unsigned>(p.dim);
  const unsigned d = item % dim;
  const std::int64_t first = std::int64_t{item / dim} * kRows;  // row of the batch
  const unsigned group = d / (dim / static_cast<unsigned>(p.ngroups));
  const auto rows = static_cast<int>(p.batch - first < kRows ? p.batch - first : kRows);
  const int dstate = exists ? static_cast<int>(p.dstate) : 0;

  // What a row has for this channel; a row that does not exist takes part as the last that does.
  const auto row_at = [&](int r) { return first + (r < rows ? r : rows - 1); };
  float x[kRows], z[kRows], dt[kRows], sum[kRows] = {};
  bool valid[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const std::int64_t at = row_at(r) * p.dim + d;
    x[r] = to_float(static_cast<const T*>(p.x)[at]);
    dt[r] = to_float(static_cast<const T*>(p.dt)[at]);
    z[r] = p.gated ? to_float(static_cast<const T*>(p.z)[at]) : 0.0f;
    valid[r] = valid_tokens(token.seqlens, row_at(r), 1) > 0;
  }
  const float bias = p.dt_bias[d], skip = p.D[d];

  for (int tile = lane * kWidth; tile < dstate; tile += lanes * kStates) {
    // All loads are on their way before the first of them is needed.
    float A[kParts][kWidth], h[kRows][kParts][kWidth], B[kRows][kParts][kWidth],
        C[kRows][kParts][kWidth];
#pragma unroll
    for (int j = 0; j < kParts; ++j) {
      const int n = tile + j * lanes * kWidth;
      load_states<kWide>(A[j], p.A + d * p.dstate + n, dstate - n);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const std::int64_t row = (row_at(r) * p.ngroups + group) * p.dstate + n;
        load_states<kWide>(h[r][j], p.ssm_state + (row_at(r) * p.dim + d) * p.dstate + n,
                           dstate - n);
        load_states<kWide>(B[r][j], static_cast<const T*>(p.B) + row, dstate - n);
        load_states<kWide>(C[r][j], static_cast<const T*>(p.C) + row, dstate - n);
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float step = step_size(dt[r], bias, p.dt_softplus);
      const float dtx = step * x[r];
#pragma unroll
      for (int j = 0; j < kParts; ++j) {
        const int n = tile + j * lanes * kWidth;
        if (n >= dstate) continue;
#pragma unroll
        for (int i = 0; i < kWidth; ++i) {
          if (!kWide && n + i >= dstate) break;
          const float next = fmaf(decay(step, A[j][i] * kLog2E), h[r][j][i], dtx * B[r][j][i]);
          sum[r] = fmaf(next, C[r][j][i], sum[r]);
          h[r][j][i] = valid[r] ? next : h[r][j][i];
        }
        if (r < rows) {
          store_states<kWide>(p.ssm_state_out + (row_at(r) * p.dim + d) * p.dstate + n, h[r][j],
                              dstate - n);
        }
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    for (int by = lanes / 2; by > 0; by /= 2) sum[r] += __shfl_xor_sync(kAllLanes, sum[r], by);
    float y = fmaf(skip, x[r], sum[r]);
    if (p.gated) y *= silu(z[r]);
    if (exists && lane == 0 && r < rows) {
      static_cast<T*>(p.y)[row_at(r) * p.dim + d] = from_float<T>(valid[r] ? y : 0.0f);
    }
  }
}

template <class T, int kRows>
cudaError_t run_rows(Token token, bool wide, int processors, cudaStream_t stream) {
  const SelectiveStateUpdateParams& p = token.p;
  const std::int64_t items = blocks_of(p.batch, kRows) * p.dim << token.lanes_log2;
  if (items > kMaxItems) return cudaErrorInvalidValue;
  // Where there is little to do, small blocks bring it to more multiprocessors.
  const int threads = items >= std::int64_t{2} * kThreads * processors ? kThreads : kWarp;
  token.items = static_cast<unsigned>(items);
  token.threads = static_cast<unsigned>(threads);
  return launch(wide ? update<T, true, kRows> : update<T, false, kRows>, blocks_of(items, threads),
                threads, 0, stream, token);
}

template <class T>
cudaError_t run(const SelectiveStateUpdateParams& p, const std::int32_t* seqlens,
                cudaStream_t stream) {
  int processors = 0;
  const cudaError_t error = device_attribute(cudaDevAttrMultiProcessorCount, &processors);
  if (error != cudaSuccess) return error;
  Token token = {p, seqlens, 0, 0, 0};
  while ((1 << token.lanes_log2) < kWarp && (kStates << token.lanes_log2) < p.dstate) {
    ++token.lanes_log2;
  }
  const bool wide = p.dstate % kWidth == 0 && aligned(p.A) && aligned(p.ssm_state) &&
                    aligned(p.ssm_state_out) && aligned(p.B, kWidth * sizeof(T)) &&
                    aligned(p.C, kWidth * sizeof(T));
  // Threads of several rows must still occupy the device.
  constexpr std::int64_t kEnough = 512;  // of a multiprocessor
  const std::int64_t threads = p.batch / kManyRows * p.dim << token.lanes_log2;
  return threads >= kEnough * processors ? run_rows<T, kManyRows>(token, wide, processors, stream)
                                         : run_rows<T, 1>(token, wide, processors, stream);
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
