// The selective scan with lanes over time: a warp has a tile of tokens, a few adjacent ones a lane,
// and finds where each lane starts by a scan over the lanes. One exponential an element, at a few
// channels a warp: the way to keep a GPU busy with one sequence. A block's warps share B and C.
//
// The numbers of a model are far from the ends of float32. Where a tile's are, nothing can overflow
// or underflow on the way, and the instructions that would take care of it are left out.
#pragma once

#include "cuda_device.cuh"
#include "selective_scan.h"

namespace mamba_export::cuda {
namespace {

constexpr int kLaneTokens = 8;
constexpr int kLaneTile = kLaneTokens * kWarp;  // tokens of a warp at a time
constexpr int kLaneThreads = kLaneTile / 2;     // of a block: one brings two tokens of each tile
constexpr int kWarpChannels = 2;                // more share what a warp reads of B and C
constexpr int kLaneChannels = kWarpChannels * kLaneThreads / kWarp;  // of a block
constexpr int kLaneSlice = 8;    // states whose B and C are there at a time
constexpr int kLaneStates = 64;  // at most
constexpr int kPart = 8;         // states in one load
static_assert(kLaneChannels == kPart && kLaneSlice == kPart);

// Blocks of a multiprocessor: as many as do without spills.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
template <class T>
constexpr int kLaneBlocks = 4;
#else
template <class T>
constexpr int kLaneBlocks = sizeof(T) == 2 ? 5 : 4;
#endif

struct LaneScan {
  SelectiveScanParams p;
  unsigned blocks;     // of the channels of a group
  bool wide_channels;  // a block's channels are one aligned vector, of each token
  bool wide_rows;      // rows of B and C consist of whole, aligned vectors of kPart
};

// ---- tiles --------------------------------------------------------------------------------------

// Rows of B or C lie so that lanes which each load a vector load adjacent ones: all first halves of
// the lanes' tokens, then all second ones.
constexpr int kHalf = kLaneTokens / 2;
constexpr int kHalves = kHalf * kWarp;
static_assert(kHalves == kLaneThreads);
using LaneRow = float[2 * kHalves];

// The first of the two tokens that this thread brings; the other is kHalf later. Their places in a
// LaneRow are kHalves apart.
__device__ __forceinline__ int token_to_bring() {
  const auto thread = static_cast<int>(threadIdx.x);
  return thread / kHalf * kLaneTokens + thread % kHalf;
}

// This lane's tokens.
__device__ __forceinline__ void load_lane(float (&to)[kLaneTokens], const LaneRow& row) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  float half[2][kHalf];
  load<kHalf>(half[0], row + lane * kHalf);
  load<kHalf>(half[1], row + kHalves + lane * kHalf);
#pragma unroll
  for (int k = 0; k < kLaneTokens; ++k) to[k] = half[k / kHalf][k % kHalf];
}

// ---- numbers that are far from the ends of float32 ----------------------------------------------

constexpr float kOrdinary = 0x1p50f;        // dt x and B
constexpr float kOrdinaryState = 0x1p120f;  // with a tile's tokens on top it is still finite

__device__ __forceinline__ bool within(float x, float most) { return fabsf(x) <= most; }

// ---- the scan -----------------------------------------------------------------------------------

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

// Puts the tokens of the lane `by` before in front of this lane's, if there is such a lane.
template <int by>
__device__ __forceinline__ void append_to_lane_before(float& end, float& decays) {
#ifdef __CUDA_ARCH__
  // A shuffle says whether there is one, which the language's function does not pass on.
  asm volatile(
      "{ .reg .pred there; .reg .f32 other_end, other_decays;\n"
      "  shfl.sync.up.b32 other_end|there, %0, %2, 0, 0xffffffff;\n"
      "  shfl.sync.up.b32 other_decays, %1, %2, 0, 0xffffffff;\n"
      "  @there fma.rn.f32 %0, %1, other_end, %0;\n"
      "  @there mul.rn.f32 %1, %1, other_decays; }"
      : "+f"(end), "+f"(decays)
      : "n"(by));
#else
  const float other_end = __shfl_up_sync(kAllLanes, end, by);
  const float other_decays = __shfl_up_sync(kAllLanes, decays, by);
  if (static_cast<int>(threadIdx.x) % kWarp >= by) {
    end = fmaf(decays, other_end, end);
    decays *= other_decays;
  }
#endif
}

// Advances `count` states of this warp's channels over a tile, and adds them to y. `states` are A
// in units of ln 2, and the state. Tokens from `tokens` on leave a state as it is.
template <bool kOrdinaryNumbers>
__device__ __forceinline__ void scan_slice(float2 (*states)[kLaneStates], int first, int count,
                                           const LaneRow* tile_B, const LaneRow* tile_C,
                                           const float (&dt)[kWarpChannels][kLaneTokens],
                                           const float (&dtx)[kWarpChannels][kLaneTokens],
                                           int tokens, float (&y)[kWarpChannels][kLaneTokens]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll 1
  for (int n = 0; n < count; ++n) {
    float B[kLaneTokens], C[kLaneTokens] = {};
    load_lane(B, tile_B[n]);
#pragma unroll
    for (int c = 0; c < kWarpChannels; ++c) {
      const float2 state = states[c][first + n];
      // Where this lane's tokens lead: from 0, or lane 0's from the state before the tile.
      float end = lane == 0 ? state.y : 0.0f;
      float decays = 1;
      float a[kLaneTokens], u[kLaneTokens];
#pragma unroll
      for (int k = 0; k < kLaneTokens; ++k) {
        if constexpr (kOrdinaryNumbers) {
          a[k] = ordinary_decay(dt[c][k], state.x);  // 1 past the end, where dt is 0
        } else {
          const float x = at_most(dt[c][k] * state.x, 0.0f);
          a[k] = exp2_of_negative(k < tokens ? x : 0.0f);
        }
        u[k] = dtx[c][k] * B[k];
        end = fmaf(a[k], end, u[k]);
        decays = k == 0 ? a[k] : decays * a[k];
      }
      append_to_lane_before<1>(end, decays);
      append_to_lane_before<2>(end, decays);
      append_to_lane_before<4>(end, decays);
      append_to_lane_before<8>(end, decays);
      append_to_lane_before<16>(end, decays);
      float h = __shfl_up_sync(kAllLanes, end, 1);
      h = lane == 0 ? state.y : h;
      if constexpr (!kOrdinaryNumbers) {
        if (__any_sync(kAllLanes, !(fabsf(end) < INFINITY))) h = start_in_order(state.y, a, u);
      }
      if (c == 0) load_lane(C, tile_C[n]);  // as late as that: registers are few
#pragma unroll
      for (int k = 0; k < kLaneTokens; ++k) {
        h = fmaf(a[k], h, u[k]);
        y[c][k] = fmaf(h, C[k], y[c][k]);
      }
      __syncwarp();  // all lanes have read the state
      if (lane == kWarp - 1) states[c][first + n].y = h;
    }
  }
}

// What a channel has.
struct LaneConstants {
  float bias, skip;
  float longest;  // shorter steps have ordinary decays; NaN if none has
};

template <class T>
__global__ void __launch_bounds__(kLaneThreads, kLaneBlocks<T>) scan_over_lanes(LaneScan scan) {
  using Tile = T[kLaneChannels][kLaneTile];
  using Slice = LaneRow[kLaneSlice];
  alignas(kVectorBytes) __shared__ Tile tile_x;  // later y
  alignas(kVectorBytes) __shared__ Tile tile_dt;
  alignas(kVectorBytes) __shared__ Tile tile_z;
  alignas(kVectorBytes) __shared__ Slice tile_B;
  alignas(kVectorBytes) __shared__ Slice tile_C;
  __shared__ float2 states[kLaneChannels][kLaneStates];  // A in units of ln 2, and the state
  __shared__ LaneConstants constants[kLaneChannels];

  const SelectiveScanParams& p = scan.p;
  unsigned block = blockIdx.x;
  const unsigned chunk = block % scan.blocks;
  block /= scan.blocks;
  const auto groups = static_cast<unsigned>(p.ngroups);
  const unsigned group = block % groups;
  const unsigned b = block / groups;
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
  __syncthreads();
  if (thread < kLaneChannels) {
    float fastest = 0;
    for (int n = 0; n < dstate; ++n) fastest = faster(fastest, states[thread][n].x);
    const unsigned d = first + static_cast<unsigned>(thread < channels ? thread : 0);
    constants[thread] = {p.dt_bias[d], p.D[d], kOrdinaryExponent / fastest};
  }

  const int length = static_cast<int>(valid_tokens(p.seqlens, b, p.seqlen));
  const auto position = [&](int i) { return b * p.seqlen + (p.reverse ? length - 1 - i : i); };
  // Bring this thread's tokens of a tile. What does not exist is zeros.
  const auto bring = [&](Tile& to, const void* from, int tile) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int at = token_to_bring() + i * kHalf;
      Vector<kPart, T> part{};
      if (tile + at < length) {
        part = load_some<kPart>(static_cast<const T*>(from) + position(tile + at) * p.dim + first,
                                channels, scan.wide_channels);
      }
#pragma unroll
      for (int c = 0; c < kPart; ++c) to[c][at] = part.element[c];
    }
  };
  // Returns whether they are ordinary.
  const auto bring_slice = [&](Slice& to, const void* from, int tile, int n) {
    bool ordinary = true;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int at = tile + token_to_bring() + i * kHalf;
      Vector<kPart, T> part{};
      if (at < length) {
        const std::int64_t row = (position(at) * p.ngroups + group) * p.dstate;
        part = load_some<kPart>(static_cast<const T*>(from) + row + n, dstate - n, scan.wide_rows);
      }
#pragma unroll
      for (int k = 0; k < kPart; ++k) {
        const float x = to_float(part.element[k]);
        ordinary = ordinary && within(x, kOrdinary);
        to[k][thread + i * kHalves] = x;
      }
    }
    return ordinary;
  };
  const auto store_token = [&](std::int64_t token, const Vector<kLaneChannels, T>& y) {
    T* const to = static_cast<T*>(p.y) + token * p.dim + first;
    if (scan.wide_channels) {
      *reinterpret_cast<Vector<kLaneChannels, T>*>(to) = y;
    } else {
#pragma unroll
      for (int c = 0; c < kLaneChannels; ++c) {
        if (c < channels) to[c] = y.element[c];
      }
    }
  };

  for (int tile = 0; tile < length; tile += kLaneTile) {
    bring(tile_x, p.x, tile);
    bring(tile_dt, p.dt, tile);
    if (p.gated) bring(tile_z, p.z, tile);
    bool ordinary_B = bring_slice(tile_B, p.B, tile, 0);
    bring_slice(tile_C, p.C, tile, 0);
    ordinary_B = __syncthreads_and(ordinary_B);

    float dt[kWarpChannels][kLaneTokens], dtx[kWarpChannels][kLaneTokens];
    float y[kWarpChannels][kLaneTokens];
    const int at = lane * kLaneTokens;
    const int tokens = length - tile - at;  // of this lane, or more
    bool ordinary = true;
#pragma unroll
    for (int c = 0; c < kWarpChannels; ++c) {
      const LaneConstants constant = constants[own + c];
      float x[kLaneTokens];
      load<kLaneTokens>(x, &tile_x[own + c][at]);
      load<kLaneTokens>(dt[c], &tile_dt[own + c][at]);
#pragma unroll
      for (int k = 0; k < kLaneTokens; ++k) {
        const float step = step_size(dt[c][k], constant.bias, p.dt_softplus);
        dt[c][k] = k < tokens ? step : 0.0f;
        dtx[c][k] = dt[c][k] * x[k];
        y[c][k] = constant.skip * x[k];
        ordinary = ordinary && dt[c][k] >= 0.0f && dt[c][k] < constant.longest &&
                   within(dtx[c][k], kOrdinary);
      }
    }

    for (int slice = 0; slice < dstate; slice += kLaneSlice) {
      if (slice > 0) {
        __syncthreads();  // the slice before has been used
        ordinary_B = bring_slice(tile_B, p.B, tile, slice);
        bring_slice(tile_C, p.C, tile, slice);
        ordinary_B = __syncthreads_and(ordinary_B);
      }
      const int count = dstate - slice < kLaneSlice ? dstate - slice : kLaneSlice;
      const int n = lane % kLaneSlice, c = lane / kLaneSlice % kWarpChannels;
      const bool ordinary_state =
          n >= count || within(states[own + c][slice + n].y, kOrdinaryState);
      // The vote has it all, so that the compiler knows that the lanes stay together.
      if (__all_sync(kAllLanes, ordinary && ordinary_B && ordinary_state)) {
        scan_slice<true>(states + own, slice, count, tile_B, tile_C, dt, dtx, tokens, y);
      } else {
        scan_slice<false>(states + own, slice, count, tile_B, tile_C, dt, dtx, tokens, y);
      }
    }

#pragma unroll
    for (int c = 0; c < kWarpChannels; ++c) {
      if (p.gated) {
        float z[kLaneTokens];
        load<kLaneTokens>(z, &tile_z[own + c][at]);
#pragma unroll
        for (int k = 0; k < kLaneTokens; ++k) y[c][k] *= silu(z[k]);
      }
      store<kLaneTokens>(&tile_x[own + c][at], y[c]);
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int from = token_to_bring() + i * kHalf;
      Vector<kLaneChannels, T> column;
#pragma unroll
      for (int c = 0; c < kLaneChannels; ++c) column.element[c] = tile_x[c][from];
      if (tile + from < length) store_token(position(tile + from), column);
    }
  }

  __syncthreads();  // for a row of no tokens: its states come from other threads
  for (int i = thread; i < channels * dstate; i += kLaneThreads) {
    p.ssm_state_out[state_row + i] = states[i / dstate][i % dstate].y;
  }
  for (std::int64_t t = std::int64_t{length} + thread; t < p.seqlen;
       t += kLaneThreads) {  // padding
    store_token(b * p.seqlen + t, {});
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
