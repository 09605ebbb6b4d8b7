// What the CUDA kernels of Mamba-2's recurrence share.
#pragma once

#include "cuda_device.cuh"
#include "ssd_chunk_scan.h"

namespace mamba_export::cuda {

// Divisors of a block's index; 32 bits wide, because dividing 64 bits takes a call.
struct Heads {
  unsigned all;
  unsigned of_a_group;
};

// How a scan is shared out: a block has some columns of one head, over a segment of a row. If there
// is more than one segment, a first pass finds the state that each leaves behind if it starts from
// zero, a second makes of these the states that they start from, and the last one gives y.
struct Scan {
  SSDChunkScanParams p;
  Heads heads;
  unsigned slices;       // of a head's columns
  unsigned segments;     // of a row
  std::int64_t segment;  // tokens
  float* states;         // [B,H,segments,N,P], if there is more than one
  float* decays;         // [B,H,segments], of a whole segment
};

// One token. With lengths, a row of length 0 keeps its state, and its y is 0.
cudaError_t update_state(const SSDStateUpdateParams& p, const std::int32_t* seqlens,
                         cudaStream_t stream);

// The second pass.
cudaError_t join_segments(const Scan& scan, cudaStream_t stream);

// The route of ssd_chunk_mma.cu: whether the current device takes it for these sizes, this type and
// operands aligned like these, and its passes.
cudaError_t tensor_cores_take(const SSDChunkScanParams& p, bool* taken);
cudaError_t scan_with_tensor_cores(const Scan& scan, cudaStream_t stream);
constexpr int kMatrixChunk = 64;    // its tokens of a chunk
constexpr int kMatrixColumns = 64;  // its columns of a block

namespace {

inline Heads heads_of(const SSDStateUpdateParams& p) {
  return {static_cast<unsigned>(p.nheads), static_cast<unsigned>(p.nheads / p.ngroups)};
}

// dt as the recurrence uses it; a NaN passes the limits.
__device__ __forceinline__ float limited_step_size(const SSDStateUpdateParams& p, float dt,
                                                   float bias) {
  dt = step_size(dt, bias, p.dt_softplus);
  dt = dt < p.dt_min ? p.dt_min : dt;
  return dt > p.dt_max ? p.dt_max : dt;
}

// Where a block of a scan works.
struct Place {
  unsigned head;
  unsigned slice;
  unsigned segment;
  std::int64_t b;
  unsigned group;
  std::int64_t first;  // token
  std::int64_t end;    // of the valid tokens; before `first` if there are none
  std::int64_t last;   // of all tokens
  const float* start;  // [N,P]: the state before the first token; null: zero
  float* home;         // [N,P]: the state after the last one; nobody else reads it meanwhile
  float* decay;        // of all the tokens; null: nobody asks
};

template <bool kStatesOnly>
__device__ __forceinline__ Place place_of(const Scan& scan) {
  const SSDChunkScanParams& p = scan.p;
  // The last segment's state is no other's start.
  const unsigned segments = kStatesOnly ? scan.segments - 1 : scan.segments;
  Place at;
  unsigned item = blockIdx.x;
  at.slice = item % scan.slices;
  item /= scan.slices;
  at.segment = item % segments;
  item /= segments;
  at.head = item % scan.heads.all;
  at.group = at.head / scan.heads.of_a_group;
  at.b = item / scan.heads.all;
  at.first = at.segment * scan.segment;
  at.last = at.first + scan.segment < p.seqlen ? at.first + scan.segment : p.seqlen;
  const std::int64_t length = valid_tokens(p.seqlens, at.b, p.seqlen);
  at.end = at.last < length ? at.last : length;
  const std::int64_t state = p.dstate * p.headdim;
  const std::int64_t slot = std::int64_t{item} * scan.segments + at.segment;
  const bool split = scan.segments > 1;
  at.start = kStatesOnly ? nullptr
             : split     ? scan.states + slot * state
                         : p.ssm_state + item * state;
  at.home =
      at.segment + 1 < scan.segments ? scan.states + slot * state : p.ssm_state_out + item * state;
  at.decay = kStatesOnly ? scan.decays + slot : nullptr;
  return at;
}

// ---- host ---------------------------------------------------------------------------------------

constexpr std::int64_t kWholeChunks = 64;  // tokens that segments are multiples of

struct Shares {
  int columns;            // of a block, at most
  std::int64_t shortest;  // segment worth a pass of its own, in tokens
};

// Segments of a row in a batch of this size, before they are rounded to whole chunks, which makes
// them fewer.
inline std::int64_t wanted_segments(const SSDChunkScanParams& p, const Shares& shares,
                                    std::int64_t batch, int processors) {
  const std::int64_t blocks = batch * p.nheads * blocks_of(p.headdim, shares.columns);
  const std::int64_t wanted = blocks > 0 ? 2 * processors / blocks : 1;
  const std::int64_t possible = p.seqlen / shares.shortest;
  const std::int64_t segments = wanted < possible ? wanted : possible;
  return segments < 1 ? 1 : segments;
}

// Shares a scan out; a row is split if there are too few heads to occupy the device. The caller
// sets the workspace.
inline cudaError_t share_out(const SSDChunkScanParams& p, const Shares& shares, Scan* scan) {
  int processors = 0;
  const cudaError_t error = count_processors(&processors);
  if (error != cudaSuccess) return error;
  const std::int64_t slices = blocks_of(p.headdim, shares.columns);
  std::int64_t segments = wanted_segments(p, shares, p.batch, processors);
  const std::int64_t segment =
      blocks_of(blocks_of(p.seqlen, segments), kWholeChunks) * kWholeChunks;
  if (segment > 0) segments = blocks_of(p.seqlen, segment);  // a row of no tokens has one, too
  *scan = {
      p,       heads_of(p), static_cast<unsigned>(slices), static_cast<unsigned>(segments), segment,
      nullptr, nullptr};
  return cudaSuccess;
}

// Launches the passes; the kernels are the first and the last.
template <class Kernel, class... Arguments>
cudaError_t run_passes(const Scan& scan, Kernel states_only, Kernel all, int threads,
                       std::size_t shared_bytes, cudaStream_t stream,
                       const Arguments&... arguments) {
  const std::int64_t blocks = scan.p.batch * scan.p.nheads * scan.slices;
  if (scan.segments > 1) {
    cudaError_t error = launch(states_only, blocks * (scan.segments - 1), threads, shared_bytes,
                               stream, scan, arguments...);
    if (error == cudaSuccess) error = join_segments(scan, stream);
    if (error != cudaSuccess) return error;
  }
  return launch(all, blocks * scan.segments, threads, shared_bytes, stream, scan, arguments...);
}

}  // namespace
}  // namespace mamba_export::cuda
