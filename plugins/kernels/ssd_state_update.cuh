// One token of Mamba-2 on a GPU, which is a question of bandwidth: the state is read and written
// once. A block has some columns of one head. A few adjacent lanes cover a row of them; each walks
// over N with several rows in flight, keeps dt x and the sums of y of its columns in registers, and
// writes each element that it has read, so the new state may lie over the old one.
//
// Where x, B and C come from is left to a Feed. They are numbered as channels of a row of the
// batch, x [H,P] before B [G,N] before C [G,N]. `feed.ask(b, channel)` loads what
// `feed.take(b, channel, asked, first)` makes the value of; exactly one block of the grid is the
// first to take a channel.
#pragma once

#include "ssd.cuh"

namespace mamba_export::cuda {
namespace {

constexpr int kInFlight = 8;               // rows a lane loads at a time
constexpr unsigned kNothing = 0xffffffff;  // no channel

struct Update {
  SSDStateUpdateParams p;       // without x, B and C
  const std::int32_t* seqlens;  // null: all rows have their token
  Heads heads;
  unsigned pieces;  // of a head's columns
};

// `lanes` lanes of n columns each cover a row.
template <class T, class Feed, int lanes, int n, int kThreads>
__global__ void __launch_bounds__(kThreads) update(Update update, Feed feed) {
  constexpr int kColumns = lanes * n;
  constexpr int kRows = kThreads / lanes;   // walked side by side
  constexpr int kTile = kRows * kInFlight;  // rows that share a barrier
  constexpr int kFed = kColumns + 2 * kTile;
  constexpr int kTurns = (kFed + kThreads - 1) / kThreads;
  constexpr int kAdjacent = lanes < kWarp ? 2 : 1;
  constexpr int kSums = kRows / kAdjacent;
  __shared__ float step, carry;
  __shared__ float fed[kFed];  // x of the columns, then B and C of the tile's rows
  __shared__ float sums[kSums][kColumns];
  const float* const B = fed + kColumns;
  const float* const C = B + kTile;

  const SSDStateUpdateParams& p = update.p;
  unsigned item = blockIdx.x;
  const unsigned piece = item % update.pieces;
  item /= update.pieces;
  const unsigned head = item % update.heads.all;
  const std::int64_t b = item / update.heads.all;
  const bool leads = piece == 0 && head % update.heads.of_a_group == 0;  // its group's blocks
  const bool valid = valid_tokens(update.seqlens, b, 1) > 0;

  const auto headdim = static_cast<unsigned>(p.headdim), dstate = static_cast<unsigned>(p.dstate);
  const auto keys = static_cast<unsigned>(p.ngroups) * dstate;  // channels of B, and of C
  const unsigned lane = threadIdx.x % lanes;
  const unsigned row = threadIdx.x / lanes;
  const unsigned first_column = piece * kColumns;
  const unsigned column = first_column + lane * n;
  const bool inside = column < headdim;
  const std::int64_t first = std::int64_t{item} * p.dstate * p.headdim + column;
  const float* const past = p.ssm_state + first;
  float* const present = p.ssm_state_out + first;

  // What the thread feeds in a turn: a channel of x, of B or of C, or nothing.
  const unsigned x_channel = head * headdim + first_column;
  const unsigned B_channel = update.heads.all * headdim + head / update.heads.of_a_group * dstate;
  const auto channel_of = [&](int turn, unsigned tile) -> unsigned {
    const unsigned i = turn * kThreads + threadIdx.x;
    if (i < kColumns) return tile == 0 && first_column + i < headdim ? x_channel + i : kNothing;
    const bool is_B = i < kColumns + kTile;
    const unsigned r = tile + i - (is_B ? kColumns : kColumns + kTile);
    if (i >= kFed || r >= dstate) return kNothing;
    return B_channel + r + (is_B ? 0 : keys);
  };

  const float* const x = fed + lane * n;
  float dtx[n] = {}, y[n] = {};
  for (unsigned tile = 0; tile == 0 || tile < dstate; tile += kTile) {
    // The state comes from afar: ask for it before all else.
    float h[kInFlight][n];
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      const unsigned r = tile + i * kRows + row;
      if (inside && r < dstate) load<n>(h[i], past + r * p.headdim);
    }
    // Then for all that is fed, before the first of it is used.
    typename Feed::Asked asked[kTurns] = {};
#pragma unroll
    for (int turn = 0; turn < kTurns; ++turn) {
      const unsigned channel = channel_of(turn, tile);
      if (channel != kNothing) asked[turn] = feed.ask(b, channel);
    }
    if (tile == 0 && threadIdx.x == 0) {
      const float dt = to_float(static_cast<const T*>(p.dt)[item]);
      step = limited_step_size(p, dt, p.dt_bias[head]);
      carry = decay(step, p.A[head] * kLog2E);
    }
    if (tile > 0) __syncthreads();
#pragma unroll
    for (int turn = 0; turn < kTurns; ++turn) {
      const unsigned channel = channel_of(turn, tile);
      const unsigned i = turn * kThreads + threadIdx.x;
      if (channel != kNothing) fed[i] = feed.take(b, channel, asked[turn], i < kColumns || leads);
    }
    __syncthreads();
    if (tile == 0 && inside) {
#pragma unroll
      for (int j = 0; j < n; ++j) dtx[j] = step * x[j];
    }
    const float a = carry;
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      const unsigned in_tile = i * kRows + row;
      const unsigned r = tile + in_tile;
      if (!inside || r >= dstate) continue;
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
  store<n>(static_cast<T*>(p.y) + std::int64_t{item} * p.headdim + column, out);
}

template <class T, int lanes, int n, int kThreads, class Feed>
cudaError_t run_update(const SSDStateUpdateParams& p, const std::int32_t* seqlens, const Feed& feed,
                       cudaStream_t stream) {
  const std::int64_t pieces = blocks_of(p.headdim, lanes * n);
  const Update parameters = {p, seqlens, heads_of(p), static_cast<unsigned>(pieces)};
  return launch(update<T, Feed, lanes, n, kThreads>, p.batch * p.nheads * pieces, kThreads, 0,
                stream, parameters, feed);
}

// Launches the step of one token; T is the type of its activations.
template <class T, class Feed>
cudaError_t launch_update(const SSDStateUpdateParams& p, const std::int32_t* seqlens,
                          const Feed& feed, cudaStream_t stream) {
  constexpr int n = 4;  // float32 of the state in one load
  int multiprocessors = 0;
  const cudaError_t error = device_attribute(cudaDevAttrMultiProcessorCount, &multiprocessors);
  if (error != cudaSuccess) return error;
  const bool wide = p.headdim % n == 0 && aligned(p.ssm_state) && aligned(p.ssm_state_out) &&
                    aligned(p.y, n * sizeof(T));
  if (!wide) return run_update<T, kWarp, 1, 256>(p, seqlens, feed, stream);
  // Few heads leave multiprocessors idle: share the columns out by 16, which are whole sectors.
  if (p.batch * p.nheads < 2 * multiprocessors) {
    return run_update<T, 4, n, 64>(p, seqlens, feed, stream);
  }
  return run_update<T, 16, n, 256>(p, seqlens, feed, stream);
}

}  // namespace
}  // namespace mamba_export::cuda
