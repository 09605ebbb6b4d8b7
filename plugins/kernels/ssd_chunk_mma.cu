// Mamba-2's recurrence over a sequence on tensor cores, for 16-bit activations: a chunk of tokens
// at a time as products of matrices (arXiv 2405.21060, section 6). With the decay e[i,j] from token
// j to token i of a chunk and h the state before it,
//
//   y = (C Bᵀ ∘ e ∘ dt) x + e[.,start] ∘ (C h) + D x,      h = e[end,start] h + (B ∘ e[end,.] ∘
//   dt)ᵀ x.
//
// The state stays in registers as float32. What goes into a product is rounded to the activations'
// type: C Bᵀ ∘ e ∘ dt, B ∘ e ∘ dt and a copy of h. In float16 these overflow above 65504. A number
// that is not finite spoils its whole chunk, earlier tokens included.
#include "cuda_kernels.h"
#include "ssd.cuh"
#include "tensor_core.cuh"

namespace mamba_export::cuda {
namespace {

constexpr int kChunk = kMatrixChunk;
constexpr int kColumns = kMatrixColumns;
constexpr int kTile = 16;     // rows of an operand on the left
constexpr int kSide = 8;      // columns of one on the right
constexpr int kRowTiles = 2;  // of the state in a warp
constexpr int kColumnTiles = kColumns / kSide;
constexpr int kPieces = kColumns / kPiece;
constexpr std::uint32_t kColumnBytes = kColumns * 2;  // a row of x or of the state's copy
static_assert(kColumnBytes == kLineBytes && kChunk == 64);

// Columns of a slice but the last: the slices of a head are about as wide as each other.
__host__ __device__ __forceinline__ int slice_width(const Scan& scan) {
  const auto pieces = static_cast<unsigned>(scan.p.headdim) / kPiece;
  return static_cast<int>((pieces + scan.slices - 1) / scan.slices * kPiece);
}

// Bytes of a row of B or C in shared memory: whole lines.
__host__ __device__ __forceinline__ std::uint32_t operand_row_bytes(const SSDChunkScanParams& p) {
  const std::uint32_t bytes = static_cast<std::uint32_t>(p.dstate) * 2;
  return (bytes + kLineBytes - 1) / kLineBytes * kLineBytes;
}

// What decays a chunk's tokens, and by how much. The sums of exponents of 2 are kept in two
// numbers: their differences have no error but their own rounding.
struct alignas(kVectorBytes) Times {
  float dt[kChunk];
  float high[kChunk], low[kChunk];  // of the sum from the chunk's start
  float from_start[kChunk];         // e[i,start]
  float to_end[kChunk];             // e[end,j] dt
  float whole;                      // e[end,start]
};

struct Exponent {
  float high, low;
};

__device__ __forceinline__ Exponent operator+(Exponent a, Exponent b) {
  const float sum = a.high + b.high;
  const float of_b = sum - a.high;
  const float rest = (a.high - (sum - of_b)) + (b.high - of_b) + (a.low + b.low);
  const float high = sum + rest;
  return {high, rest - (high - sum)};
}

__device__ __forceinline__ Exponent operator-(Exponent a, Exponent b) {
  return {a.high - b.high, a.low - b.low};
}

__device__ __forceinline__ float total(Exponent a) { return a.high + a.low; }

__device__ __forceinline__ Exponent shuffle_up(Exponent a, unsigned by) {
  return {__shfl_up_sync(kAllLanes, a.high, by), __shfl_up_sync(kAllLanes, a.low, by)};
}

// A step's exponent. Below -128 the decay is 0 whatever else it is multiplied by.
__device__ __forceinline__ Exponent exponent_of(float dt, float A) {
  constexpr float kGone = -128.0f;
  const float x = dt * A;
  return {x > 0.0f ? 0.0f : x < kGone ? kGone : x, 0.0f};
}

// A warp has two tokens a lane; those past the end take no time.
__device__ __forceinline__ void fill_times(Times& times, const SSDChunkScanParams& p,
                                           const float (&raw)[2], int tokens, float bias, float A) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  float dt[2];
  Exponent step[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const bool valid = 2 * lane + i < tokens;
    dt[i] = valid ? limited_step_size(p, raw[i], bias) : 0.0f;
    step[i] = valid ? exponent_of(dt[i], A) : Exponent{0.0f, 0.0f};
  }
  Exponent sum = step[0] + step[1];
#pragma unroll
  for (unsigned by = 1; by < kWarp; by *= 2) {
    const Exponent before = shuffle_up(sum, by);
    if (lane >= static_cast<int>(by)) sum = before + sum;
  }
  const Exponent before = shuffle_up(sum, 1);
  const Exponent sums[2] = {lane > 0 ? before + step[0] : step[0], sum};
  const Exponent all = {__shfl_sync(kAllLanes, sum.high, kWarp - 1),
                        __shfl_sync(kAllLanes, sum.low, kWarp - 1)};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int t = 2 * lane + i;
    times.dt[t] = dt[i];
    times.high[t] = sums[i].high;
    times.low[t] = sums[i].low;
    times.from_start[t] = exp2_of_negative(total(sums[i]));
    times.to_end[t] = exp2_of_negative(total(all - sums[i])) * dt[i];
  }
  if (lane == 0) times.whole = exp2_of_negative(total(all));
}

// ---- operands -----------------------------------------------------------------------------------

// Where a lane finds its row of four adjacent 8x8 matrices: two by two, `down` first or `across`
// first.
struct Corner {
  int row, piece;
};
__device__ __forceinline__ Corner down_first() {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  return {lane % 8 + lane / 8 % 2 * 8, lane / 16};
}
__device__ __forceinline__ Corner across_first() {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  return {lane % 8 + lane / 16 * 8, lane / 8 % 2};
}

// A matrix in shared memory, as a lane sees it that loads four 8x8 matrices: the address of its row
// and how its pieces trade places there.
class Matrix {
 public:
  __device__ __forceinline__ Matrix(SharedAddress at, std::uint32_t row_bytes, Corner corner)
      : row_(at + static_cast<std::uint32_t>(corner.row) * row_bytes),
        row_bytes_(row_bytes),
        swap_(static_cast<std::uint32_t>(corner.piece ^ (corner.row & 7)) * kPieceBytes) {}

  // Of the 16x16 elements `row_tile` and `column_tile`.
  __device__ __forceinline__ SharedAddress at(int row_tile, int column_tile) const {
    constexpr std::uint32_t kTileBytes = kTile * 2;
    const auto across = static_cast<std::uint32_t>(column_tile) * kTileBytes;
    const std::uint32_t line = across / kLineBytes * kLineBytes;
    return row_ + static_cast<std::uint32_t>(row_tile) * kTile * row_bytes_ + line +
           ((across - line) ^ swap_);
  }

 private:
  SharedAddress row_;
  std::uint32_t row_bytes_;
  std::uint32_t swap_;
};

// The tiles of a chunk in shared memory, and the sizes that they have.
struct Stage {
  SharedAddress B, C, x;
};

template <class T, bool kStatesOnly>
struct Source {
  const T *B, *C, *x;          // of token 0, for this thread's piece
  std::int64_t groups, heads;  // from token to token
  int pieces, width;           // of B and C, and of x; this thread's included
  std::uint32_t row_bytes;
};

// Asks for a chunk of tokens; those past the end are zero.
template <int kThreads, bool kStatesOnly, class T>
__device__ __forceinline__ void fetch(const Stage& stage, const Source<T, kStatesOnly>& from,
                                      std::int64_t first, int tokens) {
  const int piece = static_cast<int>(threadIdx.x) % kPieces;
#pragma unroll 1
  for (int t = static_cast<int>(threadIdx.x) / kPieces; t < kChunk; t += kThreads / kPieces) {
    const bool valid = t < tokens;
    const std::int64_t token = first + (valid ? t : 0);
    copy_async(stage.x + place_in(kColumnBytes, t, piece),
               from.x + token * from.heads + (piece < from.width ? piece * kPiece : 0),
               valid && piece < from.width);
    const std::int64_t row = token * from.groups;
    for (int i = piece; i < from.pieces; i += kPieces) {
      const std::uint32_t place = place_in(from.row_bytes, t, i);
      copy_async(stage.B + place, from.B + row + i * kPiece, valid);
      if (!kStatesOnly) copy_async(stage.C + place, from.C + row + i * kPiece, valid);
    }
  }
}

// ---- products -----------------------------------------------------------------------------------

// The two 8 columns wide tiles of an operand on the right, which lies with its sum along rows.
template <class T>
__device__ __forceinline__ void multiply_pair(float (&d0)[4], float (&d1)[4],
                                              const std::uint32_t (&a)[4],
                                              const std::uint32_t (&b)[4]) {
  multiply_add<T>(d0, a, b[0], b[1]);
  multiply_add<T>(d1, a, b[2], b[3]);
}

// C Bᵀ ∘ e ∘ dt of 16 tokens, from the product; tokens do not look ahead.
__device__ __forceinline__ void weigh(float (&S)[kChunk / kSide][4], const Times& times, int tile) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int row = tile * kTile + lane / 4, pair = lane % 4 * 2;
  const Exponent to[2] = {{times.high[row], times.low[row]},
                          {times.high[row + 8], times.low[row + 8]}};
#pragma unroll
  for (int side = 0; side < kChunk / kSide; ++side) {
    if (side / 2 > tile) continue;
    const int column = side * kSide + pair;
    float high[2], low[2], dt[2];
    load<2>(high, &times.high[column]);
    load<2>(low, &times.low[column]);
    load<2>(dt, &times.dt[column]);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int j = i % 2;
      const float e = exp2_of_product(total(to[i / 2] - Exponent{high[j], low[j]}));
      const bool ahead = column + j > row + i / 2 * 8;
      S[side][i] = ahead ? 0.0f : S[side][i] * (e * dt[j]);
    }
  }
}

template <class T, int kWarps, bool kStatesOnly>
__global__ void __launch_bounds__(kWarps* kWarp, kWarps == 4 ? 2 : 1)
    scan_chunks(Scan scan, int stages) {
  constexpr int kThreads = kWarps * kWarp;
  constexpr int kTokenTiles = kChunk / kTile;
  // Warps that share 16 tokens of y have some of its columns each.
  constexpr int kShares = kWarps / kTokenTiles;
  constexpr int kPairs = kColumnTiles / 2 / kShares;  // of y's tiles in a warp
  __shared__ Times times[2];

  const SSDChunkScanParams& p = scan.p;
  const Place at = place_of<kStatesOnly>(scan);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  // Lane 0 says it, so that the compiler knows that the lanes agree.
  const int warp = __shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / kWarp, 0);
  const int slice = slice_width(scan);
  const int first_column = static_cast<int>(at.slice) * slice;
  const int columns = static_cast<int>(p.headdim) - first_column < slice
                          ? static_cast<int>(p.headdim) - first_column
                          : slice;
  const int dstate = static_cast<int>(p.dstate);

  // ---- shared memory: B, C, x of each stage, then the state's copy
  const std::uint32_t row_bytes = operand_row_bytes(p);
  const std::uint32_t operand_bytes = kChunk * row_bytes;
  const SharedAddress shared = shared_address(dynamic_shared());
  const std::uint32_t stage_bytes = 2 * operand_bytes + kChunk * kColumnBytes;
  const auto stage_of = [&](int chunk) {
    const SharedAddress start = shared + (stages > 1 && chunk % 2 == 1 ? stage_bytes : 0);
    return Stage{start, start + operand_bytes, start + 2 * operand_bytes};
  };
  const std::uint32_t copy_at = static_cast<std::uint32_t>(stages) * stage_bytes;
  if (static_cast<int>(row_bytes / 2) > dstate) {  // what no chunk fills takes part as zeros
    const std::uint32_t bytes = copy_at + row_bytes / 2 * kColumnBytes;
    const float zero[4] = {};
    for (std::uint32_t i = threadIdx.x * kPieceBytes; i < bytes; i += kThreads * kPieceBytes) {
      store<4>(reinterpret_cast<float*>(dynamic_shared() + i), zero);
    }
    __syncthreads();
  }

  // ---- operands
  const std::int64_t heads = p.nheads * p.headdim, groups = p.ngroups * p.dstate;
  const std::int64_t place = at.b * p.seqlen * heads + at.head * p.headdim + first_column;
  const std::int64_t group = at.b * p.seqlen * groups + at.group * p.dstate;
  const Source<T, kStatesOnly> source = {static_cast<const T*>(p.B) + group,
                                         static_cast<const T*>(p.C) + group,
                                         static_cast<const T*>(p.x) + place,
                                         groups,
                                         heads,
                                         dstate / kPiece,
                                         columns / kPiece,
                                         row_bytes};
  T* const y = static_cast<T*>(p.y) + place;
  const T* const dt = static_cast<const T*>(p.dt) + at.b * p.seqlen * p.nheads + at.head;
  const float A = p.A[at.head] * kLog2E, bias = p.dt_bias[at.head], D = p.D[at.head];

  const auto tokens_from = [&](std::int64_t first) {
    const std::int64_t left = at.end - first;
    return static_cast<int>(left < 0 ? 0 : left < kChunk ? left : kChunk);
  };
  float raw[2] = {};  // dt of a chunk, of the first warp
  const auto fetch_dt = [&](std::int64_t first) {
    const int tokens = tokens_from(first);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (2 * lane + i < tokens) raw[i] = to_float(dt[(first + 2 * lane + i) * p.nheads]);
    }
  };

  // ---- the state: a warp has the rows of every kWarps-th tile
  float h[kRowTiles][kColumnTiles][4];
  const int row = lane / 4, pair = lane % 4 * 2;
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
    const int tile = m * kWarps + warp;
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
      const int column = n * kSide + pair;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float two[2] = {};
        const std::int64_t from = tile * kTile + row + i * 8;
        if (at.start != nullptr && tile * kTile < dstate && column < columns) {
          load<2>(two, at.start + from * p.headdim + first_column + column);
        }
        h[m][n][2 * i] = two[0];
        h[m][n][2 * i + 1] = two[1];
      }
    }
  }
  const auto copy_state = [&] {
    if constexpr (!kStatesOnly) {
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        const int tile = m * kWarps + warp;
        if (tile * kTile >= dstate) continue;
#pragma unroll
        for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const std::uint32_t to = copy_at +
                                     place_in(kColumnBytes, tile * kTile + row + i * 8, n) +
                                     static_cast<std::uint32_t>(pair) * 2;
            *reinterpret_cast<std::uint32_t*>(dynamic_shared() + to) =
                pack<T>(h[m][n][2 * i], h[m][n][2 * i + 1]);
          }
        }
      }
    }
  };

  float carried = 1;  // decay of all the tokens so far
  if (at.first < at.end) {
    fetch<kThreads>(stage_of(0), source, at.first, tokens_from(at.first));
    copy_state();
    if (warp == 0) {
      fetch_dt(at.first);
      fill_times(times[0], p, raw, tokens_from(at.first), bias, A);
      fetch_dt(at.first + kChunk);
    }
  }
  int chunk = 0;
  for (std::int64_t first = at.first; first < at.end; first += kChunk, ++chunk) {
    const Stage stage = stage_of(chunk);
    const Times& now = times[chunk % 2];
    wait_for_copies();
    __syncthreads();
    const std::int64_t next = first + kChunk;
    if (next < at.end) {
      if (stages > 1) fetch<kThreads>(stage_of(chunk + 1), source, next, tokens_from(next));
      if (warp == 0) {
        fill_times(times[(chunk + 1) % 2], p, raw, tokens_from(next), bias, A);
        fetch_dt(next + kChunk);
      }
    }

    if constexpr (!kStatesOnly) {
      // The later 16 tokens of a chunk look back at more: warps take turns.
      const int tile = (warp + chunk) % kTokenTiles;
      const int share = warp / kTokenTiles * kPairs;
      float S[kChunk / kSide][4] = {}, Y[2 * kPairs][4] = {};
      const Matrix C(stage.C, row_bytes, down_first());
      const Matrix B(stage.B, row_bytes, across_first());
      const Matrix copy(shared + copy_at, kColumnBytes, down_first());
      const Matrix x(stage.x, kColumnBytes, down_first());
      for (int line = 0; line < static_cast<int>(row_bytes / kLineBytes); ++line) {
#pragma unroll 2  // all four would want more registers than there are
        for (int i = 0; i < 4; ++i) {
          const int k = line * 4 + i;
          std::uint32_t a[4], b[4];
          load_matrices(a, C.at(tile, k));
#pragma unroll
          for (int j = 0; j < kTokenTiles; ++j) {
            if (j > tile) continue;
            load_matrices(b, B.at(j, k));
            multiply_pair<T>(S[2 * j], S[2 * j + 1], a, b);
          }
#pragma unroll
          for (int j = 0; j < kPairs; ++j) {
            load_transposed(b, copy.at(k, share + j));
            multiply_pair<T>(Y[2 * j], Y[2 * j + 1], a, b);
          }
        }
      }
      weigh(S, now, tile);
      const int t = tile * kTile + row;
      const float scale[2] = {now.from_start[t], now.from_start[t + 8]};
#pragma unroll
      for (int j = 0; j < 2 * kPairs; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) Y[j][i] *= scale[i / 2];
      }
#pragma unroll
      for (int k = 0; k < kTokenTiles; ++k) {
        if (k > tile) continue;
        const std::uint32_t a[4] = {
            pack<T>(S[2 * k][0], S[2 * k][1]), pack<T>(S[2 * k][2], S[2 * k][3]),
            pack<T>(S[2 * k + 1][0], S[2 * k + 1][1]), pack<T>(S[2 * k + 1][2], S[2 * k + 1][3])};
#pragma unroll
        for (int j = 0; j < kPairs; ++j) {
          std::uint32_t b[4];
          load_transposed(b, x.at(k, share + j));
          multiply_pair<T>(Y[2 * j], Y[2 * j + 1], a, b);
        }
      }
#pragma unroll
      for (int j = 0; j < 2 * kPairs; ++j) {
        const int n = 2 * share + j;
        const int column = n * kSide + pair;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const std::int64_t token = first + t + i * 8;
          if (column >= columns || token >= at.end) continue;
          const std::uint32_t from = stage.x - shared + place_in(kColumnBytes, t + i * 8, n) +
                                     static_cast<std::uint32_t>(pair) * 2;
          float input[2];
          unpack<T>(input[0], input[1],
                    *reinterpret_cast<const std::uint32_t*>(dynamic_shared() + from));
          *reinterpret_cast<std::uint32_t*>(y + token * heads + column) =
              pack<T>(fmaf(D, input[0], Y[j][2 * i]), fmaf(D, input[1], Y[j][2 * i + 1]));
        }
      }
    }

    const float whole = now.whole;
    carried *= whole;
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) h[m][n][i] *= whole;
      }
    }
    const Matrix B(stage.B, row_bytes, across_first());
    const Matrix x(stage.x, kColumnBytes, down_first());
#pragma unroll
    for (int k = 0; k < kTokenTiles; ++k) {
      float weight[2][2];
      load<2>(weight[0], &now.to_end[k * kTile + pair]);
      load<2>(weight[1], &now.to_end[k * kTile + pair + 8]);
      std::uint32_t a[kRowTiles][4];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        const int tile = m * kWarps + warp;
        if (tile * kTile >= dstate) continue;
        load_transposed(a[m], B.at(k, tile));
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          float low, high;
          unpack<T>(low, high, a[m][i]);
          a[m][i] = pack<T>(low * weight[i / 2][0], high * weight[i / 2][1]);
        }
      }
#pragma unroll
      for (int n = 0; n < kColumnTiles / 2; ++n) {
        std::uint32_t b[4];
        load_transposed(b, x.at(k, n));
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
          if ((m * kWarps + warp) * kTile >= dstate) continue;
          multiply_pair<T>(h[m][2 * n], h[m][2 * n + 1], a[m], b);
        }
      }
    }
    __syncthreads();
    if (stages == 1 && next < at.end) fetch<kThreads>(stage, source, next, tokens_from(next));
    copy_state();
  }

#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
    const int tile = m * kWarps + warp;
    if (tile * kTile >= dstate) continue;
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
      const int column = n * kSide + pair;
      if (column >= columns) continue;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const std::int64_t to = tile * kTile + row + i * 8;
        const float two[2] = {h[m][n][2 * i], h[m][n][2 * i + 1]};
        store<2>(at.home + to * p.headdim + first_column + column, two);
      }
    }
  }
  if constexpr (kStatesOnly) {
    if (at.slice == 0 && threadIdx.x == 0) *at.decay = carried;
  } else {
    const int piece = static_cast<int>(threadIdx.x) % kPieces * kPiece;
    const std::int64_t padding = at.end < at.first ? at.first : at.end;
    const float zero[kPiece] = {};
    for (std::int64_t t = padding + threadIdx.x / kPieces; t < at.last; t += kThreads / kPieces) {
      if (piece < columns) store<kPiece>(y + t * heads + piece, zero);
    }
  }
}

template <class T, int kWarps>
cudaError_t run(const Scan& scan, int stages, std::size_t shared_bytes, cudaStream_t stream) {
  return run_passes(scan, scan_chunks<T, kWarps, true>, scan_chunks<T, kWarps, false>,
                    kWarps * kWarp, shared_bytes, stream, stages);
}

template <class T>
cudaError_t choose_warps(const Scan& scan, int stages, std::size_t bytes, cudaStream_t stream) {
  constexpr int kFew = 4, kMany = 8;
  return scan.p.dstate <= kFew * kRowTiles * kTile ? run<T, kFew>(scan, stages, bytes, stream)
                                                   : run<T, kMany>(scan, stages, bytes, stream);
}

std::size_t shared_bytes_of(const SSDChunkScanParams& p, int stages) {
  const std::size_t row_bytes = operand_row_bytes(p);
  const std::size_t stage = 2 * kChunk * row_bytes + kChunk * kColumnBytes;
  return static_cast<std::size_t>(stages) * stage + row_bytes / 2 * kColumnBytes;
}

// How many chunks of tokens a block of the current device has room for, up to 2.
cudaError_t stages_of(const SSDChunkScanParams& p, int* stages) {
  int capability = 0, room = 0;
  *stages = 0;
  cudaError_t error = device_attribute(cudaDevAttrComputeCapabilityMajor, &capability);
  if (error == cudaSuccess) {
    error = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, &room);
  }
  if (error != cudaSuccess || capability < 8) return error;
  for (const int wanted : {2, 1}) {
    const std::size_t bytes = shared_bytes_of(p, wanted) + 2 * sizeof(Times) + kLineBytes;
    if (*stages == 0 && bytes <= static_cast<std::size_t>(room)) *stages = wanted;
  }
  return cudaSuccess;
}

}  // namespace

cudaError_t tensor_cores_take(const SSDChunkScanParams& p, bool* taken) {
  constexpr std::int64_t kMostRows = 256;
  *taken = false;
  const bool sizes = p.type != ElementType::kFloat32 && p.dstate % kTile == 0 && p.dstate > 0 &&
                     p.dstate <= kMostRows && p.headdim % kPiece == 0;
  const bool places = aligned(p.x) && aligned(p.B) && aligned(p.C) && aligned(p.y) &&
                      aligned(p.ssm_state) && aligned(p.ssm_state_out);
  if (!sizes || !places) return cudaSuccess;
  int stages = 0;
  const cudaError_t error = stages_of(p, &stages);
  *taken = stages > 0;
  return error;
}

cudaError_t scan_with_tensor_cores(const Scan& scan, cudaStream_t stream) {
  int stages = 0;
  const cudaError_t error = stages_of(scan.p, &stages);
  if (error != cudaSuccess) return error;
  const std::size_t bytes = shared_bytes_of(scan.p, stages);
  return scan.p.type == ElementType::kFloat16 ? choose_warps<Float16>(scan, stages, bytes, stream)
                                              : choose_warps<BFloat16>(scan, stages, bytes, stream);
}

}  // namespace mamba_export::cuda
