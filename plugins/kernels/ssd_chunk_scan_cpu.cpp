// Mamba-2's recurrence on the CPU: lane = column of a head's state [N,P]. A few rows of it stay in
// registers for a chunk of tokens, while y of the chunk accumulates in L1; then come the next rows.
// A prefill and its steps form each state by the same operations and leave the same bits.
#include "cpu_kernel.h"
#include "ssd_chunk_scan.h"
#include "vector_math.h"

namespace mamba_export::MAMBA_EXPORT_ISA {
namespace {

constexpr int kColumns = 4;                        // vectors of a row in registers at a time
constexpr int kRows = kRegisters / 2 / kColumns;   // rows in registers at a time
constexpr std::int64_t kTile = kColumns * kLanes;  // columns of a tile
constexpr std::int64_t kChunk = 32;                // tokens of a chunk
static_assert(kChunk % kLanes == 0);

template <class P>
Vec step_size(const P& p, Vec dt, float bias) {
  dt = dt + set1(bias);
  if (p.dt_softplus) dt = softplus(dt);
  return at_most(at_least(dt, p.dt_min), p.dt_max);
}

inline Vec decay(Vec dt, float A) { return exp(at_most(dt * set1(A), 0.0f)); }

// ---- over a sequence ----------------------------------------------------------------------------

// What a chunk of tokens needs for one head and one tile of columns.
struct Chunk {
  std::int64_t tokens;
  alignas(64) float dt[kChunk];
  alignas(64) float decay[kChunk];
  alignas(64) float dtx[kChunk][kTile];
  alignas(64) float y[kChunk][kTile];
};

// Carries R rows of the state, V vectors wide, over the tokens of a chunk.
template <int R, int V, class T>
void advance(Chunk& chunk, const T* B, const T* C, std::int64_t row, const float* past,
             float* present, std::int64_t stride, int last) {
  Vec h[R][V];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) {
      h[r][v] = load(past + r * stride + v * kLanes, v == V - 1 ? last : kLanes);
    }
  }
  for (std::int64_t t = 0; t < chunk.tokens; ++t) {
    const Vec a = set1(chunk.decay[t]);
    Vec y[V];
    for (int v = 0; v < V; ++v) y[v] = load(chunk.y[t] + v * kLanes);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const Vec b = set1(as_float(B[t * row + r]));
      const Vec c = set1(as_float(C[t * row + r]));
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        h[r][v] = fma(a, h[r][v], b * load(chunk.dtx[t] + v * kLanes));
        y[v] = fma(c, h[r][v], y[v]);
      }
    }
    for (int v = 0; v < V; ++v) store(chunk.y[t] + v * kLanes, y[v]);
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) {
      store(present + r * stride + v * kLanes, h[r][v], v == V - 1 ? last : kLanes);
    }
  }
}

template <int R, int V, class T>
void advance_rows(Chunk& chunk, const T* B, const T* C, std::int64_t row, const float* past,
                  float* present, std::int64_t stride, int last, std::int64_t rows) {
  std::int64_t n = 0;
  for (; n + R <= rows; n += R) {
    advance<R, V>(chunk, B + n, C + n, row, past + n * stride, present + n * stride, stride, last);
  }
  for (; n < rows; ++n) {
    advance<1, V>(chunk, B + n, C + n, row, past + n * stride, present + n * stride, stride, last);
  }
}

// Scans one head of one row of the batch.
template <class T>
void scan(const SSDChunkScanParams& p, std::int64_t b, std::int64_t head) {
  const std::int64_t length = p.seqlens[b];
  const std::int64_t group = head / (p.nheads / p.ngroups);
  const std::int64_t row = p.ngroups * p.dstate;  // from token to token of B and C
  const std::int64_t token = p.nheads * p.headdim;
  const std::int64_t state = (b * p.nheads + head) * p.dstate * p.headdim;
  Chunk chunk;
  for (std::int64_t column = 0; column < p.headdim; column += kTile) {
    const std::int64_t width = lesser(kTile, p.headdim - column);
    const int vectors = static_cast<int>((width + kLanes - 1) / kLanes);
    const int last = static_cast<int>(width - (vectors - 1) * kLanes);  // lanes of the last vector
    const std::int64_t at = b * p.seqlen * token + head * p.headdim + column;
    const T* const x = static_cast<const T*>(p.x) + at;
    T* const y = static_cast<T*>(p.y) + at;
    const float* past = p.ssm_state + state + column;
    float* const present = p.ssm_state_out + state + column;

    for (std::int64_t start = 0; start < length; start += kChunk) {
      chunk.tokens = lesser(kChunk, length - start);
      const std::int64_t first = b * p.seqlen + start;
      for (std::int64_t t = 0; t < kChunk; ++t) {
        const T* const dt = static_cast<const T*>(p.dt) + (first + t) * p.nheads + head;
        chunk.dt[t] = t < chunk.tokens ? as_float(*dt) : 0.0f;
      }
      for (std::int64_t t = 0; t < kChunk; t += kLanes) {
        const Vec dt = step_size(p, load(chunk.dt + t), p.dt_bias[head]);
        store(chunk.dt + t, dt);
        store(chunk.decay + t, decay(dt, p.A[head]));
      }
      for (std::int64_t t = 0; t < chunk.tokens; ++t) {
        for (int v = 0; v < vectors; ++v) {
          const int lanes = v == vectors - 1 ? last : kLanes;
          const Vec input = load(x + (start + t) * token + v * kLanes, lanes);
          store(chunk.dtx[t] + v * kLanes, set1(chunk.dt[t]) * input);
          store(chunk.y[t] + v * kLanes, zero());
        }
      }
      const std::int64_t from = first * row + group * p.dstate;
      const T* const B = static_cast<const T*>(p.B) + from;
      const T* const C = static_cast<const T*>(p.C) + from;
      const auto rows = vectors == 4   ? advance_rows<kRows, 4, T>
                        : vectors == 3 ? advance_rows<kRows, 3, T>
                        : vectors == 2 ? advance_rows<kRows, 2, T>
                                       : advance_rows<kRows, 1, T>;
      rows(chunk, B, C, row, past, present, p.headdim, last, p.dstate);
      past = present;
      const Vec skip = set1(p.D[head]);
      for (std::int64_t t = 0; t < chunk.tokens; ++t) {
        for (int v = 0; v < vectors; ++v) {
          const int lanes = v == vectors - 1 ? last : kLanes;
          const std::int64_t place = (start + t) * token + v * kLanes;
          const Vec sum = load(chunk.y[t] + v * kLanes);
          store(y + place, fma(skip, load(x + place, lanes), sum), lanes);
        }
      }
    }
    for (std::int64_t t = length; t < p.seqlen; ++t) {  // padding
      for (int v = 0; v < vectors; ++v) {
        store(y + t * token + v * kLanes, zero(), v == vectors - 1 ? last : kLanes);
      }
    }
    if (length == 0 && past != present) {  // no token carried the state over
      for (std::int64_t n = 0; n < p.dstate; ++n) {
        for (std::int64_t c = 0; c < width; ++c) {
          present[n * p.headdim + c] = past[n * p.headdim + c];
        }
      }
    }
  }
}

template <class T>
void run(const SSDChunkScanParams& p, const ParallelFor& parallel_for) {
  const double item_ns = 0.1 * static_cast<double>(p.dstate) * static_cast<double>(p.headdim) *
                         static_cast<double>(p.seqlen + 1);
  parallel_for(p.batch * p.nheads, item_ns,
               [&](std::int64_t item) { scan<T>(p, item / p.nheads, item % p.nheads); });
}

// ---- one token ----------------------------------------------------------------------------------

// Updates V vectors of columns of a head, from row to row as they lie.
template <int V, class T>
void update_columns(const SSDStateUpdateParams& p, Vec a, const Vec* dtx, const T* B, const T* C,
                    const float* past, float* present, int last, Vec* y) {
  Vec sum[V];
  for (int v = 0; v < V; ++v) sum[v] = zero();
  for (std::int64_t n = 0; n < p.dstate; ++n) {
    const Vec b = set1(as_float(B[n]));
    const Vec c = set1(as_float(C[n]));
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      const int lanes = v == V - 1 ? last : kLanes;
      const std::int64_t at = n * p.headdim + v * kLanes;
      const Vec h = fma(a, load(past + at, lanes), b * dtx[v]);
      store(present + at, h, lanes);
      sum[v] = fma(c, h, sum[v]);
    }
  }
  for (int v = 0; v < V; ++v) y[v] = sum[v];
}

template <class T>
void update(const SSDStateUpdateParams& p, const SSDRows& rows, std::int64_t b, std::int64_t head) {
  const std::int64_t group = head / (p.nheads / p.ngroups);
  const std::int64_t from = b * rows.keys + group * p.dstate;
  const std::int64_t state = (b * p.nheads + head) * p.dstate * p.headdim;
  const T* const dt = static_cast<const T*>(p.dt) + b * p.nheads + head;
  const Vec step = step_size(p, set1(as_float(*dt)), p.dt_bias[head]);
  const Vec a = decay(step, p.A[head]);
  for (std::int64_t column = 0; column < p.headdim; column += kTile) {
    const std::int64_t width = lesser(kTile, p.headdim - column);
    const int vectors = static_cast<int>((width + kLanes - 1) / kLanes);
    const int last = static_cast<int>(width - (vectors - 1) * kLanes);
    const T* const x = static_cast<const T*>(p.x) + b * rows.x + head * p.headdim + column;
    T* const out = static_cast<T*>(p.y) + (b * p.nheads + head) * p.headdim + column;
    Vec dtx[kColumns];
    Vec y[kColumns];
    for (int v = 0; v < vectors; ++v) {
      dtx[v] = step * load(x + v * kLanes, v == vectors - 1 ? last : kLanes);
    }
    const auto columns = vectors == 4   ? update_columns<4, T>
                         : vectors == 3 ? update_columns<3, T>
                         : vectors == 2 ? update_columns<2, T>
                                        : update_columns<1, T>;
    columns(p, a, dtx, static_cast<const T*>(p.B) + from, static_cast<const T*>(p.C) + from,
            p.ssm_state + state + column, p.ssm_state_out + state + column, last, y);
    for (int v = 0; v < vectors; ++v) {
      const int lanes = v == vectors - 1 ? last : kLanes;
      const Vec skipped = fma(set1(p.D[head]), load(x + v * kLanes, lanes), y[v]);
      store(out + v * kLanes, skipped, lanes);
    }
  }
}

template <class T>
void run(const SSDStateUpdateParams& p, const SSDRows& rows, const ParallelFor& parallel_for) {
  // Between two steps a model's weights push the state out of the caches: it comes from memory.
  const double item_ns = 0.5 * static_cast<double>(p.dstate) * static_cast<double>(p.headdim);
  parallel_for(p.batch * p.nheads, item_ns,
               [&](std::int64_t item) { update<T>(p, rows, item / p.nheads, item % p.nheads); });
}

}  // namespace

void ssd_state_update(const SSDStateUpdateParams& p, const SSDRows& rows,
                      const ParallelFor& parallel_for) {
  with_element(p.type, [&](auto element) { run<decltype(element)>(p, rows, parallel_for); });
}

void ssd_state_update(const SSDStateUpdateParams& p, const ParallelFor& parallel_for) {
  ssd_state_update(p, dense_rows(p), parallel_for);
}

void ssd_chunk_scan(const SSDChunkScanParams& p, const ParallelFor& parallel_for) {
  if (is_one_step(p)) return ssd_state_update(p, parallel_for);
  with_element(p.type, [&](auto element) { run<decltype(element)>(p, parallel_for); });
}

}  // namespace mamba_export::MAMBA_EXPORT_ISA
