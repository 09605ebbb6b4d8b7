// Mamba-2's recurrence over a sequence on a GPU, on the units that multiply and add: any sizes, any
// type. A thread keeps some rows of one column of a head's state in registers; a warp has 32
// columns of the same rows. A chunk of tokens is brought to shared memory as float32, where all
// warps read the same rows of B and C; their sums of y meet there once a chunk.
#include "cuda_kernels.h"
#include "ssd.cuh"

namespace mamba_export {
namespace cuda {
namespace {

constexpr int kColumns = kWarp;           // of a block
constexpr int kWarps = 8;                 // that share the rows of a tile
constexpr int kThreads = kWarps * kWarp;  // of a block
constexpr int kChunk = 16;                // tokens
constexpr std::int64_t kShortestSegment = 8 * kChunk;

// R rows of the state in a thread.
template <int R>
struct Chunk {
  float dt[kChunk], decay[kChunk];
  float x[kChunk][kColumns];
  float y[kChunk][kWarps][kColumns];  // of each warp's rows
  alignas(kVectorBytes) float B[kChunk][kWarps * R];
  alignas(kVectorBytes) float C[kChunk][kWarps * R];
};

// Carries `rows` rows of the state, R if kAll, over the tokens of a chunk.
template <int R, bool kAll, bool kStatesOnly>
__device__ __forceinline__ void advance(Chunk<R>& chunk, float (&h)[R], int tokens, int rows,
                                        bool first_rows) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  for (int t = 0; t < tokens; ++t) {
    const float a = chunk.decay[t];
    const float dtx = chunk.dt[t] * chunk.x[t][lane];
    float y = 0;
#pragma unroll
    for (int r = 0; r < R; r += 4) {
      float B[4], C[4];
      load<4>(B, &chunk.B[t][warp * R + r]);
      if (!kStatesOnly) load<4>(C, &chunk.C[t][warp * R + r]);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (!kAll && r + i >= rows) continue;
        h[r + i] = fmaf(a, h[r + i], B[i] * dtx);
        if (!kStatesOnly) y = fmaf(C[i], h[r + i], y);
      }
    }
    if (!kStatesOnly) chunk.y[t][warp][lane] = first_rows ? y : chunk.y[t][warp][lane] + y;
  }
}

template <int R>
__device__ __forceinline__ void load_state(float (&h)[R], const float* from, std::int64_t width,
                                           int rows) {
#pragma unroll
  for (int r = 0; r < R; ++r) h[r] = from != nullptr && r < rows ? from[r * width] : 0.0f;
}

template <int R>
__device__ __forceinline__ void store_state(float* to, const float (&h)[R], std::int64_t width,
                                            int rows) {
#pragma unroll
  for (int r = 0; r < R; ++r) {
    if (r < rows) to[r * width] = h[r];
  }
}

template <class T, int R, bool kStatesOnly>
__global__ void __launch_bounds__(kThreads, 2) scan_rows(Scan scan) {
  constexpr int kTile = kWarps * R;  // rows that fit the registers
  __shared__ Chunk<R> chunk;
  const SSDChunkScanParams& p = scan.p;
  const Place at = place_of<kStatesOnly>(scan);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const std::int64_t column = std::int64_t{at.slice} * kColumns + lane;
  const bool inside = column < p.headdim;

  // From token to token.
  const std::int64_t heads = p.nheads * p.headdim, groups = p.ngroups * p.dstate;
  const std::int64_t place = at.b * p.seqlen * heads + at.head * p.headdim;
  const T* const x = static_cast<const T*>(p.x) + place;
  T* const y = static_cast<T*>(p.y) + place;
  const T* const dt = static_cast<const T*>(p.dt) + at.b * p.seqlen * p.nheads + at.head;
  const std::int64_t group = at.b * p.seqlen * groups + at.group * p.dstate;
  const T* const B = static_cast<const T*>(p.B) + group;
  const T* const C = static_cast<const T*>(p.C) + group;

  // A thread's rows of a tile. More than one tile go to and fro between chunks.
  const auto rows_of = [&](std::int64_t tile) {
    const std::int64_t left = inside ? p.dstate - tile - warp * R : 0;
    return static_cast<int>(left < 0 ? 0 : left < R ? left : R);
  };
  const auto state_of = [&](auto* state, std::int64_t tile) {
    return state == nullptr ? state : state + (tile + warp * R) * p.headdim + column;
  };
  const bool many = p.dstate > kTile;
  float h[R];
  if (!many) load_state(h, state_of(at.start, 0), p.headdim, rows_of(0));
  const float A = p.A[at.head] * kLog2E;
  float carried = 1;  // decay of all the tokens so far

  for (std::int64_t t0 = at.first; t0 < at.end; t0 += kChunk) {
    const int tokens = static_cast<int>(at.end - t0 < kChunk ? at.end - t0 : kChunk);
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < tokens) {
      const auto t = static_cast<int>(threadIdx.x);
      const float raw = to_float(dt[(t0 + t) * p.nheads]);
      chunk.dt[t] = limited_step_size(p, raw, p.dt_bias[at.head]);
      chunk.decay[t] = decay(chunk.dt[t], A);
    }
    for (int t = warp; t < tokens; t += kWarps) {
      chunk.x[t][lane] = inside ? to_float(x[(t0 + t) * heads + column]) : 0.0f;
    }
    for (std::int64_t tile = 0; tile == 0 || tile < p.dstate; tile += kTile) {
      if (tile > 0) __syncthreads();
      for (int i = static_cast<int>(threadIdx.x); i < tokens * kTile; i += kThreads) {
        const int t = i / kTile, r = i % kTile;
        if (tile + r >= p.dstate) continue;
        chunk.B[t][r] = to_float(B[(t0 + t) * groups + tile + r]);
        if (!kStatesOnly) chunk.C[t][r] = to_float(C[(t0 + t) * groups + tile + r]);
      }
      __syncthreads();
      const int rows = rows_of(tile);
      if (many) {
        load_state(h, state_of(t0 == at.first ? at.start : at.home, tile), p.headdim, rows);
      }
      if (rows == R) {
        advance<R, true, kStatesOnly>(chunk, h, tokens, rows, tile == 0);
      } else {
        advance<R, false, kStatesOnly>(chunk, h, tokens, rows, tile == 0);
      }
      if (many) store_state(state_of(at.home, tile), h, p.headdim, rows);
    }
    if (kStatesOnly) {
#pragma unroll 1
      for (int t = 0; t < tokens; ++t) carried *= chunk.decay[t];
      continue;
    }
    __syncthreads();
    for (int t = warp; t < tokens; t += kWarps) {
      float sum = 0;
#pragma unroll
      for (int i = 0; i < kWarps; ++i) sum += chunk.y[t][i][lane];
      sum = fmaf(p.D[at.head], chunk.x[t][lane], sum);
      if (inside) y[(t0 + t) * heads + column] = from_float<T>(sum);
    }
  }

  if (!many) store_state(state_of(at.home, 0), h, p.headdim, rows_of(0));
  if (many && at.end <= at.first) {  // no token carried the state over
    for (std::int64_t tile = 0; tile < p.dstate; tile += kTile) {
      load_state(h, state_of(at.start, tile), p.headdim, rows_of(tile));
      store_state(state_of(at.home, tile), h, p.headdim, rows_of(tile));
    }
  }
  if constexpr (kStatesOnly) {
    if (at.slice == 0 && threadIdx.x == 0) *at.decay = carried;
  } else {
    const std::int64_t padding = at.end < at.first ? at.first : at.end;
    for (std::int64_t t = padding + warp; t < at.last; t += kWarps) {
      if (inside) y[t * heads + column] = from_float<T>(0.0f);
    }
  }
}

// Puts the state that a segment starts from where the one that it leaves behind was.
__global__ void __launch_bounds__(kThreads) join(Scan scan) {
  constexpr unsigned kInFlight = 8;  // segments: the loads do not depend on each other
  const SSDChunkScanParams& p = scan.p;
  const std::int64_t state = p.dstate * p.headdim;
  const auto blocks = static_cast<unsigned>((state + kThreads - 1) / kThreads);
  const unsigned item = blockIdx.x / blocks;
  const std::int64_t at = std::int64_t{blockIdx.x % blocks} * kThreads + threadIdx.x;
  if (at >= state) return;
  float* place = scan.states + std::int64_t{item} * scan.segments * state + at;
  const float* const decays = scan.decays + std::int64_t{item} * scan.segments;
  const unsigned last = scan.segments - 1;
  float h = p.ssm_state[item * state + at];
  for (unsigned first = 0; first < last; first += kInFlight) {
    float left[kInFlight], decay[kInFlight];
#pragma unroll
    for (unsigned i = 0; i < kInFlight; ++i) {
      if (first + i >= last) continue;
      left[i] = place[i * state];
      decay[i] = decays[first + i];
    }
#pragma unroll
    for (unsigned i = 0; i < kInFlight; ++i) {
      if (first + i >= last) continue;
      *place = h;
      place += state;
      h = fmaf(decay[i], h, left[i]);
    }
  }
  *place = h;
}

template <class T, int R>
cudaError_t run_rows(const Scan& scan, cudaStream_t stream) {
  return run_passes(scan, scan_rows<T, R, true>, scan_rows<T, R, false>, kThreads, 0, stream);
}

template <class T>
cudaError_t choose_rows(const Scan& scan, cudaStream_t stream) {
  return scan.p.dstate <= 4 * kWarps ? run_rows<T, 4>(scan, stream) : run_rows<T, 16>(scan, stream);
}

constexpr Shares kRowShares = {kColumns, kShortestSegment};
constexpr Shares kMatrixShares = {kMatrixColumns, 8 * kMatrixChunk};

// The workspace: states, then decays.
std::size_t state_floats(const Scan& scan) {
  const std::int64_t segments = scan.segments > 1 ? scan.segments : 0;
  return static_cast<std::size_t>(scan.p.batch * scan.p.nheads * segments * scan.p.dstate *
                                  scan.p.headdim);
}

std::size_t workspace_floats(const SSDChunkScanParams& p, const Shares& shares) {
  Scan scan;
  if (share_out(p, shares, &scan) != cudaSuccess) return 0;  // the launch says so again
  if (scan.segments == 1) return 0;
  return state_floats(scan) + static_cast<std::size_t>(p.batch * p.nheads * scan.segments);
}

// Of all batches up to p.batch on all devices; larger ones than the last are not split.
std::size_t most_workspace_floats(const SSDChunkScanParams& p, const Shares& shares) {
  std::int64_t most = 0;
  for (std::int64_t batch = 1; batch <= p.batch; ++batch) {
    const std::int64_t segments = wanted_segments(p, shares, batch, kMostProcessors);
    if (segments == 1) break;
    const std::int64_t floats = batch * p.nheads * segments * (p.dstate * p.headdim + 1);
    if (floats > most) most = floats;
  }
  return static_cast<std::size_t>(most);
}

}  // namespace

cudaError_t join_segments(const Scan& scan, cudaStream_t stream) {
  const std::int64_t blocks = blocks_of(scan.p.dstate * scan.p.headdim, kThreads);
  return launch(join, scan.p.batch * scan.p.nheads * blocks, kThreads, 0, stream, scan);
}

}  // namespace cuda

// The operands' alignment decides on the route, and may not be known yet.
std::size_t ssd_chunk_scan_workspace(const SSDChunkScanParams& p) {
  const std::size_t rows = cuda::workspace_floats(p, cuda::kRowShares);
  const std::size_t matrices = cuda::workspace_floats(p, cuda::kMatrixShares);
  return sizeof(float) * (rows < matrices ? matrices : rows);
}

std::size_t ssd_chunk_scan_most_workspace(const SSDChunkScanParams& p) {
  const std::size_t rows = cuda::most_workspace_floats(p, cuda::kRowShares);
  const std::size_t matrices = cuda::most_workspace_floats(p, cuda::kMatrixShares);
  return sizeof(float) * (rows < matrices ? matrices : rows);
}

cudaError_t launch_ssd_chunk_scan(const SSDChunkScanParams& p, void* workspace,
                                  cudaStream_t stream) {
  // The lengths are the device's to read: the update keeps the state of a row that has no token.
  if (p.seqlen == 1) return cuda::update_state(p, p.seqlens, stream);
  bool matrices = false;
  cudaError_t error = cuda::tensor_cores_take(p, &matrices);
  if (error != cudaSuccess) return error;
  cuda::Scan scan;
  error = cuda::share_out(p, matrices ? cuda::kMatrixShares : cuda::kRowShares, &scan);
  if (error != cudaSuccess) return error;
  scan.states = static_cast<float*>(workspace);
  scan.decays = scan.states + cuda::state_floats(scan);
  if (matrices) return cuda::scan_with_tensor_cores(scan, stream);
  return cuda::with_element(
      p.type, [&](auto element) { return cuda::choose_rows<decltype(element)>(scan, stream); });
}

}  // namespace mamba_export
