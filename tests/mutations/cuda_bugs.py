"""Bugs seeded into the CUDA kernels; each is caught on the emulated device.

The check of an entry is what must find it: ``fuzz:`` and an op, whose random calls do, or ``rows:``
and an op, whose rows and routes do; random calls find nothing wrong there.
"""

from __future__ import annotations

from tests.mutations.entry import bug

_CONV, _SCAN, _LANES = "causal_conv1d.cu", "selective_scan.cu", "selective_scan_lanes.cuh"
_STEP, _MATRICES, _ROWS = "selective_state_update.cu", "ssd_chunk_mma.cu", "ssd_chunk_scan.cu"
_SSD_STEP, _NORM, _SSD = "ssd_state_update.cu", "block_sum.cuh", "ssd.cuh"

CUDA = [
    bug(
        "the state from the padded end",
        _CONV,
        "fuzz:CausalConv1d",
        "const std::int64_t t = length - (K - 1) + k;",
        "const std::int64_t t = p.seqlen - (K - 1) + k;",
    ),
    bug(
        "a seam of segments one token off",
        _CONV,
        "fuzz:CausalConv1d",
        "(first - (K - 1) + k) * p.channels",
        "(first - (K - 2) + k) * p.channels",
    ),
    bug(
        "a tile is read before it is there",
        _SCAN,
        "fuzz:SelectiveScan",
        "    __syncthreads();\n    fetch_rows(tile + tokens);",
        "    fetch_rows(tile + tokens);",
    ),
    bug(
        "reverse forgotten for B and C",
        _SCAN,
        "fuzz:SelectiveScan",
        "(p.reverse ? length - 1 - i : i)) * p.ngroups + group) * p.dstate",
        "i) * p.ngroups + group) * p.dstate",
    ),
    bug(
        "segments start from zero",
        _SCAN,
        "fuzz:SelectiveScan",
        "      starts[std::int64_t{s + i + 1} * row] = h;",
        "      starts[std::int64_t{s + i + 1} * row] = in[i];",
    ),
    bug(
        "reverse forgotten over lanes",
        _LANES,
        "fuzz:SelectiveScan",
        "b * p.seqlen + (p.reverse ? length - 1 - i : i);",
        "b * p.seqlen + i;",
    ),
    bug(
        "a row without tokens changes its state",
        _STEP,
        "fuzz:SelectiveScan",
        "h[r][j][i] = valid[r] ? next : h[r][j][i];",
        "h[r][j][i] = next;",
    ),
    bug(
        "A with the wrong sign",
        _STEP,
        "fuzz:SelectiveStateUpdate",
        "decay(step, A[j][i] * kLog2E)",
        "decay(step, -A[j][i] * kLog2E)",
    ),
    bug(
        "tokens look ahead",
        _MATRICES,
        "fuzz:SSDChunkScan",
        "S[side][i] = ahead ? 0.0f : S[side][i] * (e * dt[j]);",
        "S[side][i] = S[side][i] * (e * dt[j]);",
    ),
    bug(
        "the state of the chunk before does not decay",
        _MATRICES,
        "fuzz:SSDChunkScan",
        "{now.from_start[t], now.from_start[t + 8]}",
        "{1.0f, 1.0f}",
    ),
    bug(
        "the decay of a segment is that of its last chunk",
        _MATRICES,
        "fuzz:SSDChunkScan",
        "carried *= whole;",
        "carried = whole;",
    ),
    bug(
        "segments do not decay",
        _ROWS,
        "fuzz:SSDChunkScan",
        "h = fmaf(decay[i], h, left[i]);",
        "h = h + left[i];",
    ),
    bug(
        "D forgotten",
        _SSD_STEP,
        "fuzz:SSDStateUpdate",
        "out[j] = valid ? fmaf(p.D[head], x[j], sum) : 0.0f;",
        "out[j] = valid ? sum : 0.0f;",
    ),
    bug(
        "the mean without eps",
        _NORM,
        "fuzz:AddRMSNorm",
        "fmaf(squares, share, eps)",
        "squares * share",
    ),
    bug(
        "a warp's sum is lost",
        _NORM,
        "fuzz:GatedRMSNorm",
        "for (int i = 0; i < kRowThreads / kWarp; ++i) total",
        "for (int i = 1; i < kRowThreads / kWarp; ++i) total",
    ),
    bug(
        "a bias is read in vectors wherever it lies",
        _CONV,
        "rows:CausalConv1d",
        "aligned(p.weight) && aligned(p.bias) &&",
        "aligned(p.weight) &&",
    ),
    bug(
        "the second of two buffers begins anywhere",
        _MATRICES,
        "fuzz:SSDChunkScan",
        "struct alignas(kVectorBytes) Times {",
        "struct Times {",
    ),
    bug(
        "few channels are not worth segments",
        _SCAN,
        "rows:SelectiveScan",
        "(channels >= kChannels * processors || p.seqlen < kShortParts)",
        "p.seqlen > 0",
    ),
    bug(
        "lanes over time idle in short sequences",
        _SCAN,
        "rows:SelectiveScan",
        " || p.seqlen < kShortLanes) return route;",
        ") return route;",
    ),
    bug(
        "large blocks for few channels",
        _STEP,
        "rows:SelectiveStateUpdate",
        "? kThreads : kWarp;",
        "? kThreads : kThreads;",
    ),
    bug(
        "no tensor cores",
        _MATRICES,
        "rows:SSDChunkScan",
        "*taken = stages > 0;",
        "*taken = false;",
    ),
    bug(
        "tensor cores that are not there",
        _MATRICES,
        "rows:SSDChunkScan",
        "capability < 8) return error;",
        "capability < 7) return error;",
    ),
    bug(
        "more shared memory than there is",
        _MATRICES,
        "rows:SSDChunkScan",
        "bytes <= static_cast<std::size_t>(room)) *stages",
        "bytes > 0) *stages",
    ),
    bug(
        "one chunk at a time",
        _MATRICES,
        "rows:SSDChunkScan",
        "for (const int wanted : {2, 1}) {",
        "for (const int wanted : {1}) {",
    ),
    bug(
        "rows are not split",
        _SSD,
        "rows:SSDChunkScan",
        "return segments < 1 ? 1 : segments;",
        "return segments < 1 ? segments : 1;",
    ),
    bug(
        "few heads on few multiprocessors",
        _SSD_STEP,
        "rows:SSDStateUpdate",
        "if (p.batch * p.nheads < 2 * multiprocessors) return",
        "if (p.batch * p.nheads < 0) return",
    ),
    bug(
        "narrow loads of few channels",
        _CONV,
        "rows:CausalConv1d",
        "p.channels % n == 0 && aligned(p.x)",
        "p.channels % n == 0 && p.channels > 4096 && aligned(p.x)",
    ),
]
