// The selective scan with lanes over time: a warp has a tile of tokens, a few adjacent ones a lane,
// and finds where each lane starts by a scan over the lanes. One exponential an element, at a few
// channels a warp: the way to keep a GPU busy with one sequence. A block's warps share B and C.
#pragma once

#include "cuda_device.cuh"
#include "selective_scan.h"

namespace mamba_export::cuda {
namespace {

constexpr int kLaneTokens = 4;
constexpr int kLaneTile = kLaneTokens * kWarp;  // tokens of a warp at a time
constexpr int kLaneThreads = kLaneTile;         // of a block: one brings a token of each tile
constexpr int kWarpChannels = 2;                // more share what a warp reads of B and C
constexpr int kLaneChannels = kWarpChannels * kLaneThreads / kWarp;  // of a block
constexpr int kLaneSlice = 16;   // states whose B and C are there at a time
constexpr int kLaneStates = 64;  // at most
constexpr int kPart = 8;         // states in one load
static_assert(kLaneChannels == kPart && kLaneSlice % kPart == 0);

struct LaneScan {
  SelectiveScanParams p;
  unsigned blocks;     // of the channels of a group
  bool wide_channels;  // a block's channels are one aligned vector, of each token
  bool wide_rows;      // rows of B and C consist of whole, aligned vectors of kPart
};

// The state before each lane's first token, lane by lane: a state that is not finite cannot go
// through products of decays, which may underflow to 0.
__device__ __forceinline__ float start_in_order(float h, const float (&a)[kLaneTokens],
                                                const float (&u)[kLaneTokens]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  float start = h;
#pragma unroll 1
  for (int before = 0; before < kWarp - 1; ++before) {
    float end = start;
#pragma unroll
    for (int k = 0; k < kLaneTokens; ++k) end = fmaf(a[k], end, u[k]);
    end = __shfl_sync(kAllLanes, end, before);
    start = lane == before + 1 ? end : start;
  }
  return start;
}

template <class T>
__global__ void __launch_bounds__(kLaneThreads) scan_over_lanes(LaneScan scan) {
  __shared__ float tile_x[kLaneChannels][kLaneTile];  // later y
  __shared__ float tile_dt[kLaneChannels][kLaneTile];
  __shared__ float tile_z[kLaneChannels][kLaneTile];
  __shared__ float tile_B[kLaneSlice][kLaneTile];
  __shared__ float tile_C[kLaneSlice][kLaneTile];
  __shared__ float2 states[kLaneChannels][kLaneStates];  // A in units of ln 2, and the state

  const SelectiveScanParams& p = scan.p;
  unsigned block = blockIdx.x;
  const unsigned chunk = block % scan.blocks;
  block /= scan.blocks;
  const auto groups = static_cast<unsigned>(p.ngroups);
  const unsigned group = block % groups;
  const std::int64_t b = block / groups;
  const unsigned width = static_cast<unsigned>(p.dim) / groups;
  const unsigned first = group * width + chunk * kLaneChannels;
  const auto left = static_cast<int>(width - chunk * kLaneChannels);
  const int channels = left < kLaneChannels ? left : kLaneChannels;
  const auto dstate = static_cast<int>(p.dstate);
  const auto thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarp;
  const int own = thread / kWarp * kWarpChannels;  // first channel of this warp

  const std::int64_t state_row = (b * p.dim + first) * p.dstate;
  for (int i = thread; i < kLaneChannels * dstate; i += kLaneThreads) {
    float2 state = {0.0f, 0.0f};
    if (i < channels * dstate) {
      state = {p.A[first * p.dstate + i] * kLog2E, p.ssm_state[state_row + i]};
    }
    states[i / dstate][i % dstate] = state;
  }
  float bias[kWarpChannels] = {}, skip[kWarpChannels] = {};
#pragma unroll
  for (int c = 0; c < kWarpChannels; ++c) {
    if (own + c >= channels) break;
    bias[c] = p.dt_bias[first + static_cast<unsigned>(own + c)];
    skip[c] = p.D[first + static_cast<unsigned>(own + c)];
  }

  const int length = static_cast<int>(valid_tokens(p.seqlens, b, p.seqlen));
  // Brings this thread's token of each tile. What does not exist is zeros.
  const auto bring = [&](float (*to)[kLaneTile], const void* from, std::int64_t token, bool valid) {
    Vector<kPart, T> part{};
    if (valid) {
      part = load_some<kPart>(static_cast<const T*>(from) + token * p.dim + first, channels,
                              scan.wide_channels);
    }
#pragma unroll
    for (int c = 0; c < kPart; ++c) to[c][thread] = to_float(part.element[c]);
  };
  const auto bring_slice = [&](float (*to)[kLaneTile], const void* from, std::int64_t token, int n,
                               bool valid) {
    const T* const row = static_cast<const T*>(from) + (token * p.ngroups + group) * p.dstate + n;
#pragma unroll
    for (int i = 0; i < kLaneSlice; i += kPart) {
      Vector<kPart, T> part{};
      if (valid) part = load_some<kPart>(row + i, dstate - n - i, scan.wide_rows);
#pragma unroll
      for (int k = 0; k < kPart; ++k) to[i + k][thread] = to_float(part.element[k]);
    }
  };
  const auto store_token = [&](std::int64_t token, const float (&y)[kLaneChannels]) {
    T* const to = static_cast<T*>(p.y) + token * p.dim + first;
    if (scan.wide_channels) {
      store<kLaneChannels>(to, y);
    } else {
#pragma unroll
      for (int c = 0; c < kLaneChannels; ++c) {
        if (c < channels) to[c] = from_float<T>(y[c]);
      }
    }
  };

  for (int tile = 0; tile < length; tile += kLaneTile) {
    const int i = tile + thread;
    const bool valid = i < length;
    const std::int64_t token = b * p.seqlen + (p.reverse ? length - 1 - i : i);
    bring(tile_x, p.x, token, valid);
    bring(tile_dt, p.dt, token, valid);
    if (p.gated) bring(tile_z, p.z, token, valid);
    bring_slice(tile_B, p.B, token, 0, valid);
    bring_slice(tile_C, p.C, token, 0, valid);
    __syncthreads();

    float dt[kWarpChannels][kLaneTokens], dtx[kWarpChannels][kLaneTokens];
    float y[kWarpChannels][kLaneTokens] = {};
    const int at = lane * kLaneTokens;
#pragma unroll
    for (int c = 0; c < kWarpChannels; ++c) {
      float x[kLaneTokens];
      load<kLaneTokens>(x, &tile_x[own + c][at]);
      load<kLaneTokens>(dt[c], &tile_dt[own + c][at]);
#pragma unroll
      for (int k = 0; k < kLaneTokens; ++k) {
        dt[c][k] = step_size(dt[c][k], bias[c], p.dt_softplus);
        dtx[c][k] = dt[c][k] * x[k];
      }
    }

    // The last valid token of the tile: what follows it must not reach the next tile.
    const int last = (length - tile < kLaneTile ? length - tile : kLaneTile) - 1;
    for (int slice = 0; slice < dstate; slice += kLaneSlice) {
      if (slice > 0) {
        __syncthreads();  // the slice before has been used
        bring_slice(tile_B, p.B, token, slice, valid);
        bring_slice(tile_C, p.C, token, slice, valid);
        __syncthreads();
      }
      const int count = dstate - slice < kLaneSlice ? dstate - slice : kLaneSlice;
      for (int n = 0; n < count; ++n) {
        float B[kLaneTokens], C[kLaneTokens];
        load<kLaneTokens>(B, &tile_B[n][at]);
        load<kLaneTokens>(C, &tile_C[n][at]);
        float a[kWarpChannels][kLaneTokens], u[kWarpChannels][kLaneTokens];
        float start[kWarpChannels];
#pragma unroll
        for (int c = 0; c < kWarpChannels; ++c) {
          const float2 state = states[own + c][slice + n];
          // Where this lane's tokens lead: from 0, or lane 0's from the state before the tile.
          float end = lane == 0 ? state.y : 0.0f;
          float decays = 1;
#pragma unroll
          for (int k = 0; k < kLaneTokens; ++k) {
            a[c][k] = decay(dt[c][k], state.x);
            u[c][k] = dtx[c][k] * B[k];
            end = fmaf(a[c][k], end, u[c][k]);
            decays = k == 0 ? a[c][k] : decays * a[c][k];
          }
#pragma unroll
          for (int by = 1; by < kWarp; by *= 2) {
            const float other_end = __shfl_up_sync(kAllLanes, end, static_cast<unsigned>(by));
            const float other_decays = __shfl_up_sync(kAllLanes, decays, static_cast<unsigned>(by));
            if (lane >= by) {
              end = fmaf(decays, other_end, end);
              decays *= other_decays;
            }
          }
          const bool infinite = !(fabsf(end) < INFINITY);
          start[c] = __shfl_up_sync(kAllLanes, end, 1);
          start[c] = lane == 0 ? state.y : start[c];
          if (__any_sync(kAllLanes, infinite)) start[c] = start_in_order(state.y, a[c], u[c]);
        }
        __syncwarp();  // all lanes have read the states
#pragma unroll
        for (int c = 0; c < kWarpChannels; ++c) {
          float h[kLaneTokens];
#pragma unroll
          for (int k = 0; k < kLaneTokens; ++k) {
            h[k] = fmaf(a[c][k], k == 0 ? start[c] : h[k - 1], u[c][k]);
            y[c][k] = fmaf(h[k], C[k], y[c][k]);
          }
          float newest = h[kLaneTokens - 1];
          if (last < kLaneTile - 1) {
#pragma unroll
            for (int k = 0; k < kLaneTokens; ++k) newest = last % kLaneTokens == k ? h[k] : newest;
          }
          if (lane == last / kLaneTokens) states[own + c][slice + n].y = newest;
        }
      }
    }

#pragma unroll
    for (int c = 0; c < kWarpChannels; ++c) {
      float x[kLaneTokens], z[kLaneTokens];
      load<kLaneTokens>(x, &tile_x[own + c][at]);
      if (p.gated) load<kLaneTokens>(z, &tile_z[own + c][at]);
#pragma unroll
      for (int k = 0; k < kLaneTokens; ++k) {
        y[c][k] = fmaf(skip[c], x[k], y[c][k]);
        if (p.gated) y[c][k] *= silu(z[k]);
      }
      store<kLaneTokens>(&tile_x[own + c][at], y[c]);
    }
    __syncthreads();
    if (valid) {
      float column[kLaneChannels];
#pragma unroll
      for (int c = 0; c < kLaneChannels; ++c) column[c] = tile_x[c][thread];
      store_token(token, column);
    }
  }

  __syncthreads();  // for a row of no tokens: its states come from other threads
  for (int i = thread; i < channels * dstate; i += kLaneThreads) {
    p.ssm_state_out[state_row + i] = states[i / dstate][i % dstate].y;
  }
  const float zeros[kLaneChannels] = {};
  for (std::int64_t t = std::int64_t{length} + thread; t < p.seqlen;
       t += kLaneThreads) {  // padding
    store_token(b * p.seqlen + t, zeros);
  }
}

template <class T>
cudaError_t launch_over_lanes(const SelectiveScanParams& p, cudaStream_t stream) {
  const std::int64_t width = p.dim / p.ngroups;
  LaneScan scan{};
  scan.p = p;
  scan.blocks = static_cast<unsigned>(blocks_of(width, kLaneChannels));
  scan.wide_channels =
      width % kLaneChannels == 0 && aligned(p.x) && aligned(p.dt) && aligned(p.z) && aligned(p.y);
  scan.wide_rows = p.dstate % kPart == 0 && aligned(p.B) && aligned(p.C);
  return launch(scan_over_lanes<T>, p.batch * p.ngroups * scan.blocks, kLaneThreads, 0, stream,
                scan);
}

}  // namespace
}  // namespace mamba_export::cuda
