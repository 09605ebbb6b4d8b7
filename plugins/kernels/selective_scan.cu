// Mamba's recurrence over a sequence on a GPU. The route follows from how many channels there are:
//
//   many  A thread walks over the sequence with a channel, or with 16 states of one.
//   some  A warp's lanes are adjacent in time (selective_scan_lanes.cuh).
//   few   The sequence is cut into segments that go side by side: a first pass finds where each
//         segment ends when it starts from zero, and how much it decays; a second one finds from
//         these where each segment really starts; the third is the walk. Only the second reads the
//         initial state and only the third writes the final one, so they may be the same memory.
#include <type_traits>

#include "cuda_device.cuh"
#include "cuda_kernels.h"
#include "selective_scan.h"
#include "selective_scan_lanes.cuh"
#include "selective_state_update.cuh"

namespace mamba_export {
namespace cuda {
namespace {

// ---- walks over the sequence --------------------------------------------------------------------

constexpr int kThreads = 128;
constexpr int kBlocks = 3;   // of a multiprocessor, for the walks; with a fourth some would spill
constexpr int kStates = 16;  // of a thread
constexpr int kWidth = 4;    // adjacent ones among them
constexpr int kTile = 1024;  // elements of B, and of C, that are in shared memory at a time
constexpr int kAhead = 4;    // tokens whose x, dt and z are loaded before they are needed
constexpr int kShare = kTile / kThreads;  // of a thread, of a tile

struct Scan {
  SelectiveScanParams p;
  unsigned lanes;     // of a channel
  unsigned blocks;    // of the channels of a group
  unsigned segments;  // of a row
  int segment;        // tokens of one
  bool wide_states;   // rows of states consist of whole, aligned vectors of kWidth
  bool wide_rows;     // as do rows of B and C, of kShare
  // Of each segment; null if there is one.
  float*
      starts;  // [B,segments,D,N], where it starts; after the first pass, where the last one ends
  float2* steps;  // [B,segments,D], the sum of its positive dt and that of its negative dt
};

// The states of a thread: of every `kWidth * lanes` those of its lane, so that lanes do not meet in
// the banks of shared memory. States beyond the tensor's are zeros.
struct Slice {
  int lane, lanes, dstate;

  __device__ int state(int j) const { return (j * lanes + lane) * kWidth; }

  __device__ void load_from(float (&to)[kStates], const float* from, bool wide) const {
#pragma unroll
    for (int j = 0; j < kStates / kWidth; ++j) {
      const int n = state(j);
      float part[kWidth] = {};
      if (wide) {
        if (n < dstate) load<kWidth>(part, from + n);
      } else {
#pragma unroll
        for (int i = 0; i < kWidth; ++i) part[i] = n + i < dstate ? from[n + i] : 0.0f;
      }
#pragma unroll
      for (int i = 0; i < kWidth; ++i) to[j * kWidth + i] = part[i];
    }
  }

  __device__ void store_to(float* to, const float (&from)[kStates], bool wide) const {
#pragma unroll
    for (int j = 0; j < kStates / kWidth; ++j) {
      const int n = state(j);
      float part[kWidth];
#pragma unroll
      for (int i = 0; i < kWidth; ++i) part[i] = from[j * kWidth + i];
      if (wide) {
        if (n < dstate) store<kWidth>(to + n, part);
      } else {
#pragma unroll
        for (int i = 0; i < kWidth; ++i) {
          if (n + i < dstate) to[n + i] = part[i];
        }
      }
    }
  }
};

// One segment of a row, for the channels of a block. kFull: no thread has states beyond the
// tensor's. kFirst: the first pass, for all segments but the last, which nobody starts after.
template <class T, bool kFull, bool kFirst>
__global__ void __launch_bounds__(kThreads, kBlocks) walk(Scan scan) {
  const SelectiveScanParams& p = scan.p;
  unsigned block = blockIdx.x;
  const unsigned chunk = block % scan.blocks;
  block /= scan.blocks;
  const auto groups = static_cast<unsigned>(p.ngroups);
  const unsigned group = block % groups;
  block /= groups;
  const unsigned passed = kFirst ? scan.segments - 1 : scan.segments;
  const unsigned segment = block % passed;
  const std::int64_t b = block / passed;

  const int length = static_cast<int>(valid_tokens(p.seqlens, b, p.seqlen));
  const int first = static_cast<int>(segment) * scan.segment;
  const bool more = length - first > scan.segment;  // valid tokens after this segment
  const int end = more ? first + scan.segment : length;
  if (kFirst && !more) return;

  const unsigned width = static_cast<unsigned>(p.dim) / groups;
  unsigned channel = chunk * (kThreads / scan.lanes) + threadIdx.x / scan.lanes;
  const bool exists = channel < width;
  if (!exists) channel = width - 1;  // computes what another thread does, and writes nothing
  const unsigned d = group * width + channel;
  const auto dstate = static_cast<int>(p.dstate);
  const Slice slice = {static_cast<int>(threadIdx.x % scan.lanes), static_cast<int>(scan.lanes),
                       dstate};
  const bool writes = exists && slice.lane == 0;

  const std::int64_t part = (b * scan.segments + segment) * p.dim + d;
  float A[kStates], h[kStates] = {};
  slice.load_from(A, p.A + d * p.dstate, scan.wide_states);
#pragma unroll
  for (int s = 0; s < kStates; ++s) A[s] *= kLog2E;
  float fastest = 0;
#pragma unroll
  for (int s = 0; s < kStates; ++s) fastest = faster(fastest, A[s]);
  const float longest = kOrdinaryExponent / fastest;
  if constexpr (!kFirst) {
    const float* const start = scan.starts != nullptr ? scan.starts + part * p.dstate
                                                      : p.ssm_state + (b * p.dim + d) * p.dstate;
    slice.load_from(h, start, scan.wide_states);
  }
  const float bias = p.dt_bias[d];
  const float skip = p.D[d];

  // The tile's B and C; this thread brings kShare states from n on of token `row`.
  alignas(kVectorBytes) __shared__ float tile_B[kTile];
  alignas(kVectorBytes) __shared__ float tile_C[kFirst ? 1 : kTile];
  const int states = kStates * slice.lanes;  // of a row of the tile
  const int tokens = kTile / states;
  const int row = static_cast<int>(threadIdx.x) * kShare / states;
  const int n = static_cast<int>(threadIdx.x) * kShare % states;
  Vector<kShare, T> next_B{}, next_C{};
  const auto fetch_rows = [&](int tile) {
    const int i = tile + row;
    if (i >= end) return;
    const std::int64_t at =
        ((b * p.seqlen + (p.reverse ? length - 1 - i : i)) * p.ngroups + group) * p.dstate;
    next_B = load_some<kShare>(static_cast<const T*>(p.B) + at + n, dstate - n, scan.wide_rows);
    if (!kFirst)
      next_C = load_some<kShare>(static_cast<const T*>(p.C) + at + n, dstate - n, scan.wide_rows);
  };

  // What the next tokens have in this channel.
  const std::int64_t stride = p.reverse ? -p.dim : p.dim;
  std::int64_t at = (b * p.seqlen + (p.reverse ? length - 1 - first : first)) * p.dim + d;
  T next_x[kAhead]{}, next_dt[kAhead]{}, next_z[kAhead]{};
  const auto fetch_tokens = [&](int i) {
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (i + k >= end) break;
      const std::int64_t from = at + k * stride;
      next_x[k] = static_cast<const T*>(p.x)[from];
      next_dt[k] = static_cast<const T*>(p.dt)[from];
      if (!kFirst && p.gated) next_z[k] = static_cast<const T*>(p.z)[from];
    }
  };

  float2 steps = {0.0f, 0.0f};
  // Goes over the tokens from `i` on, of a tile. Where their decays are ordinary, that takes less.
  const auto advance = [&](auto ordinary, int tile, int i, std::int64_t to,
                           const float (&x)[kAhead], const float (&dt)[kAhead],
                           const float (&z)[kAhead]) {
    constexpr bool kOrdinary = decltype(ordinary)::value;
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (tile + i + k >= end) break;
      const float dtx = dt[k] * x[k];
      [[maybe_unused]] float even = 0, odd = 0;
#pragma unroll
      for (int j = 0; j < kStates / kWidth; ++j) {
        const int from = (i + k) * states + slice.state(j);
        float B[kWidth];
        [[maybe_unused]] float C[kWidth];
        load<kWidth>(B, tile_B + from);
        if constexpr (!kFirst) load<kWidth>(C, tile_C + from);
#pragma unroll
        for (int m = 0; m < kWidth; ++m) {
          const int s = j * kWidth + m;
          const float a = kOrdinary ? ordinary_decay(dt[k], A[s]) : decay(dt[k], A[s]);
          h[s] = fmaf(a, h[s], dtx * B[m]);
          // An infinite input times the B of no state would be NaN.
          if (!kFull && slice.state(j) + m >= dstate) h[s] = 0.0f;
          if constexpr (!kFirst) (m % 2 ? odd : even) = fmaf(h[s], C[m], m % 2 ? odd : even);
        }
      }
      if constexpr (kFirst) {
        steps.x += dt[k] > 0.0f ? dt[k] : 0.0f;
        steps.y += dt[k] < 0.0f ? dt[k] : 0.0f;
      } else {
        float y = even + odd;
        for (int by = slice.lanes / 2; by > 0; by /= 2) y += __shfl_xor_sync(kAllLanes, y, by);
        y = fmaf(skip, x[k], y);
        if (p.gated) y *= silu(z[k]);
        if (writes) static_cast<T*>(p.y)[to + k * stride] = from_float<T>(y);
      }
    }
  };

  fetch_rows(first);
  fetch_tokens(first);
  for (int tile = first; tile < end; tile += tokens) {
    __syncthreads();  // the tile before has been used
#pragma unroll
    for (int i = 0; i < kShare; i += kWidth) {
      float part_B[kWidth], part_C[kWidth];
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        part_B[k] = to_float(next_B.element[i + k]);
        part_C[k] = to_float(next_C.element[i + k]);
      }
      const int to = static_cast<int>(threadIdx.x) * kShare + i;
      store<kWidth>(tile_B + to, part_B);
      if constexpr (!kFirst) store<kWidth>(tile_C + to, part_C);
    }
    __syncthreads();
    fetch_rows(tile + tokens);

    for (int i = 0; i < tokens && tile + i < end; i += kAhead) {
      float x[kAhead], dt[kAhead], z[kAhead];
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
        x[k] = to_float(next_x[k]);
        dt[k] = step_size(to_float(next_dt[k]), bias, p.dt_softplus);
        z[k] = to_float(next_z[k]);
      }
      const std::int64_t to = at;
      at += kAhead * stride;
      fetch_tokens(tile + i + kAhead);
      bool ordinary = true;
#pragma unroll
      for (int k = 0; k < kAhead; ++k) ordinary = ordinary && dt[k] >= 0.0f && dt[k] < longest;
      // All lanes vote, so that they stay together.
      if (__all_sync(kAllLanes, ordinary)) {
        advance(std::true_type{}, tile, i, to, x, dt, z);
      } else {
        advance(std::false_type{}, tile, i, to, x, dt, z);
      }
    }
  }

  if constexpr (kFirst) {
    if (exists) slice.store_to(scan.starts + (part + p.dim) * p.dstate, h, scan.wide_states);
    if (writes) scan.steps[part] = steps;
  } else {
    const bool last = !more && (length > first || segment == 0);  // of the valid ones
    if (last && exists) {
      slice.store_to(p.ssm_state_out + (b * p.dim + d) * p.dstate, h, scan.wide_states);
    }
    const std::int64_t after = std::int64_t{first} + scan.segment;
    const std::int64_t padding_end = after < p.seqlen ? after : p.seqlen;
    for (std::int64_t t = length > first ? length : first; writes && t < padding_end; ++t) {
      static_cast<T*>(p.y)[(b * p.seqlen + t) * p.dim + d] = from_float<T>(0.0f);
    }
  }
}

// ---- from segment to segment --------------------------------------------------------------------

// What is left of a state after a segment, whose steps sum up to `steps`, and what came in on the
// way. A NaN among A and dt is in `in` already. What underflows only over several tokens leaves an
// infinite state as it is.
__device__ __forceinline__ float carry(float h, float A, float2 steps, float in) {
  const float sum = A < 0.0f ? steps.x : steps.y;  // elsewhere the exponent is positive
  const float x = sum != 0.0f ? A * sum : 0.0f;
  if (fabsf(h) == INFINITY && x > -INFINITY) return h + in;
  return fmaf(exp2_of_negative(x > 0.0f ? 0.0f : x), h, in);
}

// The second pass; a thread has a state of a row.
__global__ void __launch_bounds__(kThreads) join_segments(Scan scan, unsigned items) {
  constexpr int kBatch = 8;  // segments whose loads are on their way together
  const SelectiveScanParams& p = scan.p;
  const unsigned item = blockIdx.x * kThreads + threadIdx.x;
  if (item >= items) return;
  const auto row = static_cast<unsigned>(p.dim * p.dstate);
  const std::int64_t b = item / row;
  const unsigned state = item % row;
  const unsigned d = state / static_cast<unsigned>(p.dstate);

  const std::int64_t length = valid_tokens(p.seqlens, b, p.seqlen);
  const auto passed = static_cast<int>(length > 0 ? (length - 1) / scan.segment : 0);
  float* const starts = scan.starts + b * scan.segments * row + state;
  const float2* const steps = scan.steps + b * scan.segments * p.dim + d;
  const float A = p.A[state] * kLog2E;
  float h = p.ssm_state[item];
  starts[0] = h;
  for (int s = 0; s < passed; s += kBatch) {
    float in[kBatch];
    float2 sums[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (s + i >= passed) break;
      in[i] = starts[std::int64_t{s + i + 1} * row];
      sums[i] = steps[(s + i) * p.dim];
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (s + i >= passed) break;
      h = carry(h, A, sums[i], in[i]);
      starts[std::int64_t{s + i + 1} * row] = h;
    }
  }
}

// ---- host ---------------------------------------------------------------------------------------

// How a scan is split among threads.
struct Route {
  bool over_lanes;        // else
  std::int64_t lanes;     // of a channel
  std::int64_t segment;   // tokens
  std::int64_t segments;  // of a row
};

constexpr std::int64_t kEnough = 256;  // walking threads that occupy a multiprocessor
constexpr std::int64_t kWanted = 512;  // the same, where more cost little
constexpr std::int64_t kSegment = 64;  // tokens, at least

std::int64_t lanes_of(const SelectiveScanParams& p) {
  std::int64_t lanes = 1;
  while (lanes * kStates < p.dstate) lanes *= 2;
  return lanes;
}

Route choose_route(const SelectiveScanParams& p, int processors) {
  constexpr std::int64_t kChannels = 8;      // that occupy a multiprocessor with lanes over time
  constexpr std::int64_t kShortLanes = 32;   // tokens; fewer leave most lanes idle
  constexpr std::int64_t kShortParts = 512;  // tokens; fewer are not worth three passes
  Route route = {false, lanes_of(p), p.seqlen > 0 ? p.seqlen : 1, 1};
  const std::int64_t channels = p.batch * p.dim;
  const std::int64_t threads = channels * route.lanes;
  if (threads == 0 || threads >= kEnough * processors || p.seqlen < kShortLanes) return route;
  if (p.dstate <= kLaneStates && (channels >= kChannels * processors || p.seqlen < kShortParts)) {
    route.over_lanes = true;
    return route;
  }
  const std::int64_t tokens = blocks_of(p.seqlen, blocks_of(kWanted * processors, threads));
  route.segment = tokens < kSegment ? kSegment : blocks_of(tokens, kAhead) * kAhead;
  route.segments = blocks_of(p.seqlen, route.segment);
  return route;
}

std::int64_t bytes_of_steps(const SelectiveScanParams& p, const Route& route) {
  constexpr std::int64_t kVector = kVectorBytes;
  const std::int64_t bytes = p.batch * route.segments * p.dim * std::int64_t{sizeof(float2)};
  return blocks_of(bytes, kVector) * kVector;
}

std::int64_t bytes_of_starts(const SelectiveScanParams& p, const Route& route) {
  return p.batch * route.segments * p.dim * p.dstate * std::int64_t{sizeof(float)};
}

// Of a batch that is split on a device with `processors`, in as many segments as it may be.
std::int64_t most_bytes(SelectiveScanParams p, std::int64_t batch, int processors) {
  p.batch = batch;
  const std::int64_t threads = batch * p.dim * lanes_of(p);
  if (threads == 0 || threads >= kEnough * processors) return 0;
  const std::int64_t parts = blocks_of(kWanted * processors, threads);
  const std::int64_t possible = blocks_of(p.seqlen, kSegment);
  Route route{};
  route.segments = parts < possible ? parts : possible;
  return bytes_of_steps(p, route) + bytes_of_starts(p, route);
}

template <class T, bool kFull>
cudaError_t launch_walks(const Scan& scan, cudaStream_t stream) {
  const SelectiveScanParams& p = scan.p;
  const std::int64_t blocks = p.batch * p.ngroups * scan.blocks;
  if (scan.segments > 1) {
    cudaError_t error =
        launch(walk<T, kFull, true>, blocks * (scan.segments - 1), kThreads, 0, stream, scan);
    if (error != cudaSuccess) return error;
    const std::int64_t items = p.batch * p.dim * p.dstate;
    error = launch(join_segments, blocks_of(items, kThreads), kThreads, 0, stream, scan,
                   static_cast<unsigned>(items));
    if (error != cudaSuccess) return error;
  }
  return launch(walk<T, kFull, false>, blocks * scan.segments, kThreads, 0, stream, scan);
}

template <class T>
cudaError_t run(const SelectiveScanParams& p, const Route& route, void* workspace,
                cudaStream_t stream) {
  if (route.over_lanes) return launch_over_lanes<T>(p, stream);
  Scan scan{};
  scan.p = p;
  scan.lanes = static_cast<unsigned>(route.lanes);
  scan.blocks = static_cast<unsigned>(blocks_of(p.dim / p.ngroups, kThreads / route.lanes));
  scan.segments = static_cast<unsigned>(route.segments);
  scan.segment = static_cast<int>(route.segment);
  scan.wide_states =
      p.dstate % kWidth == 0 && aligned(p.A) && aligned(p.ssm_state) && aligned(p.ssm_state_out);
  scan.wide_rows = p.dstate % kShare == 0 && aligned(p.B) && aligned(p.C);
  if (route.segments > 1) {
    scan.steps = static_cast<float2*>(workspace);
    scan.starts =
        reinterpret_cast<float*>(static_cast<char*>(workspace) + bytes_of_steps(p, route));
  }
  return p.dstate == route.lanes * kStates ? launch_walks<T, true>(scan, stream)
                                           : launch_walks<T, false>(scan, stream);
}

}  // namespace
}  // namespace cuda

std::size_t selective_scan_workspace(const SelectiveScanParams& p) {
  int processors = 0;
  const cudaError_t error = cuda::count_processors(&processors);
  if (error != cudaSuccess || p.seqlen == 1) return 0;
  const cuda::Route route = cuda::choose_route(p, processors);
  if (route.segments == 1) return 0;  // or lanes over time
  return static_cast<std::size_t>(cuda::bytes_of_steps(p, route) + cuda::bytes_of_starts(p, route));
}

std::size_t selective_scan_most_workspace(const SelectiveScanParams& p) {
  std::int64_t most = 0;
  // Larger batches are not split on any device; that of the most processors splits into the most.
  for (std::int64_t batch = 1; batch <= p.batch; ++batch) {
    const std::int64_t bytes = cuda::most_bytes(p, batch, cuda::kMostProcessors);
    if (bytes == 0) break;
    if (bytes > most) most = bytes;
  }
  return static_cast<std::size_t>(most);
}

cudaError_t launch_selective_scan(const SelectiveScanParams& p, void* workspace,
                                  cudaStream_t stream) {
  constexpr std::int64_t kMaxTokens = 0x7fff0000;  // positions are 32 bits wide
  if (p.seqlen == 1) return cuda::launch_one_token(p, p.seqlens, stream);
  if (p.seqlen > kMaxTokens) return cudaErrorInvalidValue;
  int processors = 0;
  const cudaError_t error = cuda::count_processors(&processors);
  if (error != cudaSuccess) return error;
  const cuda::Route route = cuda::choose_route(p, processors);
  return cuda::with_element(p.type, [&](auto element) {
    return cuda::run<decltype(element)>(p, route, workspace, stream);
  });
}

}  // namespace mamba_export
