// One token of Mamba-2 on a GPU, which is a question of bandwidth: the state is read and written
// once. A block has some columns of one head. A few adjacent lanes cover a row of them; each walks
// over N with several rows in flight, keeps dt x and the sums of y of its columns in registers, and
// writes each element that it has read, so the new state may lie over the old one.
#include "cuda_kernels.h"
#include "ssd.cuh"

namespace mamba_export {
namespace cuda {
namespace {

constexpr int kInFlight = 8;  // rows a lane loads at a time

struct Update {
  SSDStateUpdateParams p;
  const std::int32_t* seqlens;  // null: all rows have their token
  Heads heads;
  unsigned pieces;  // of a head's columns
};

// `lanes` lanes of n columns each cover a row.
template <class T, int lanes, int n, int kThreads>
__global__ void __launch_bounds__(kThreads) update(Update update) {
  constexpr int kColumns = lanes * n;
  constexpr int kRows = kThreads / lanes;   // walked side by side
  constexpr int kTile = kRows * kInFlight;  // rows that share a barrier
  constexpr int kAdjacent = lanes < kWarp ? 2 : 1;
  constexpr int kSums = kRows / kAdjacent;
  __shared__ float step, carry, B[kTile], C[kTile];
  __shared__ float sums[kSums][kColumns];

  const SSDStateUpdateParams& p = update.p;
  unsigned item = blockIdx.x;
  const unsigned piece = item % update.pieces;
  item /= update.pieces;
  const unsigned head = item % update.heads.all;
  const std::int64_t b = item / update.heads.all;
  const std::int64_t group = b * p.ngroups + head / update.heads.of_a_group;
  const bool valid = valid_tokens(update.seqlens, b, 1) > 0;

  const int lane = static_cast<int>(threadIdx.x) % lanes;
  const int row = static_cast<int>(threadIdx.x) / lanes;
  const std::int64_t column = std::int64_t{piece} * kColumns + lane * n;
  const bool inside = column < p.headdim;
  const std::int64_t at = std::int64_t{item} * p.headdim + column;  // of x and y
  const std::int64_t first = std::int64_t{item} * p.dstate * p.headdim + column;
  const float* const past = p.ssm_state + first;
  float* const present = p.ssm_state_out + first;

  float x[n] = {}, dtx[n] = {}, y[n] = {};
  if (inside && valid) load<n>(x, static_cast<const T*>(p.x) + at);
  for (std::int64_t tile = 0; tile < p.dstate; tile += kTile) {
    // The state comes from afar: ask for it before all else.
    float h[kInFlight][n];
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      const std::int64_t r = tile + i * kRows + row;
      if (inside && r < p.dstate) load<n>(h[i], past + r * p.headdim);
    }
    if (tile == 0 && threadIdx.x == 0) {
      const float dt = to_float(static_cast<const T*>(p.dt)[item]);
      step = limited_step_size(p, dt, p.dt_bias[head]);
      carry = decay(step, p.A[head] * kLog2E);
    }
    if (tile > 0) __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < kTile && tile + i < p.dstate; i += kThreads) {
      B[i] = to_float(static_cast<const T*>(p.B)[group * p.dstate + tile + i]);
      C[i] = to_float(static_cast<const T*>(p.C)[group * p.dstate + tile + i]);
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < n; ++j) dtx[j] = step * x[j];
    const float a = carry;
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      const int in_tile = i * kRows + row;
      const std::int64_t r = tile + in_tile;
      if (!inside || r >= p.dstate) continue;
#pragma unroll
      for (int j = 0; j < n; ++j) {
        if (valid) h[i][j] = fmaf(a, h[i][j], B[in_tile] * dtx[j]);
        y[j] = fmaf(C[in_tile], h[i][j], y[j]);
      }
      store<n>(present + r * p.headdim, h[i]);
    }
  }

  // The sums of two adjacent rows, then of all: the order is that of rows, so the bits do not
  // depend on how many lanes share a row.
  if (kAdjacent == 2) {
#pragma unroll
    for (int j = 0; j < n; ++j) y[j] += __shfl_xor_sync(kAllLanes, y[j], lanes);
  }
  if (row % kAdjacent == 0) {
#pragma unroll
    for (int j = 0; j < n; ++j) sums[row / kAdjacent][lane * n + j] = y[j];
  }
  __syncthreads();
  if (threadIdx.x >= lanes || !inside) return;
  float out[n];
#pragma unroll
  for (int j = 0; j < n; ++j) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kSums; ++i) sum += sums[i][lane * n + j];
    out[j] = valid ? fmaf(p.D[head], x[j], sum) : 0.0f;
  }
  store<n>(static_cast<T*>(p.y) + at, out);
}

template <class T, int lanes, int n, int kThreads>
cudaError_t run(const SSDStateUpdateParams& p, const std::int32_t* seqlens, cudaStream_t stream) {
  const std::int64_t pieces = blocks_of(p.headdim, lanes * n);
  const Update parameters = {p, seqlens, heads_of(p), static_cast<unsigned>(pieces)};
  return launch(update<T, lanes, n, kThreads>, p.batch * p.nheads * pieces, kThreads, 0, stream,
                parameters);
}

template <class T>
cudaError_t choose_width(const SSDStateUpdateParams& p, const std::int32_t* seqlens,
                         cudaStream_t stream) {
  constexpr int n = 4;  // float32 of the state in one load
  int multiprocessors = 0;
  const cudaError_t error = device_attribute(cudaDevAttrMultiProcessorCount, &multiprocessors);
  if (error != cudaSuccess) return error;
  const bool wide = p.headdim % n == 0 && aligned(p.ssm_state) && aligned(p.ssm_state_out) &&
                    aligned(p.x, n * sizeof(T)) && aligned(p.y, n * sizeof(T));
  if (!wide) return run<T, kWarp, 1, 256>(p, seqlens, stream);
  // Few heads leave multiprocessors idle: share the columns out by 16, which are whole sectors.
  if (p.batch * p.nheads < 2 * multiprocessors) return run<T, 4, n, 64>(p, seqlens, stream);
  return run<T, 16, n, 256>(p, seqlens, stream);
}

}  // namespace

cudaError_t update_state(const SSDStateUpdateParams& p, const std::int32_t* seqlens,
                         cudaStream_t stream) {
  return with_element(
      p.type, [&](auto element) { return choose_width<decltype(element)>(p, seqlens, stream); });
}

}  // namespace cuda

std::size_t ssd_state_update_workspace(const SSDStateUpdateParams&) { return 0; }
std::size_t ssd_state_update_most_workspace(const SSDStateUpdateParams&) { return 0; }

cudaError_t launch_ssd_state_update(const SSDStateUpdateParams& p, void*, cudaStream_t stream) {
  return cuda::update_state(p, nullptr, stream);
}

}  // namespace mamba_export
