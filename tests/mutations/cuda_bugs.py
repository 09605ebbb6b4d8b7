"""Bugs seeded into the CUDA kernels; each is caught by random calls on the emulated device.

The check of an entry is the op whose calls must find it.
"""

from __future__ import annotations

from tests.mutations.entry import bug

_CONV, _SCAN, _LANES = "causal_conv1d.cu", "selective_scan.cu", "selective_scan_lanes.cuh"
_STEP, _MATRICES, _ROWS = "selective_state_update.cu", "ssd_chunk_mma.cu", "ssd_chunk_scan.cu"
_SSD_STEP, _NORM = "ssd_state_update.cu", "block_sum.cuh"

CUDA = [
    bug(
        "the state from the padded end",
        _CONV,
        "CausalConv1d",
        "const std::int64_t t = length - (K - 1) + k;",
        "const std::int64_t t = p.seqlen - (K - 1) + k;",
    ),
    bug(
        "a seam of segments one token off",
        _CONV,
        "CausalConv1d",
        "(first - (K - 1) + k) * p.channels",
        "(first - (K - 2) + k) * p.channels",
    ),
    bug(
        "a tile is read before it is there",
        _SCAN,
        "SelectiveScan",
        "    __syncthreads();\n    fetch_rows(tile + tokens);",
        "    fetch_rows(tile + tokens);",
    ),
    bug(
        "reverse forgotten for B and C",
        _SCAN,
        "SelectiveScan",
        "(p.reverse ? length - 1 - i : i)) * p.ngroups + group) * p.dstate",
        "i) * p.ngroups + group) * p.dstate",
    ),
    bug(
        "segments start from zero",
        _SCAN,
        "SelectiveScan",
        "      starts[std::int64_t{s + i + 1} * row] = h;",
        "      starts[std::int64_t{s + i + 1} * row] = in[i];",
    ),
    bug(
        "reverse forgotten over lanes",
        _LANES,
        "SelectiveScan",
        "b * p.seqlen + (p.reverse ? length - 1 - i : i);",
        "b * p.seqlen + i;",
    ),
    bug(
        "a row without tokens changes its state",
        _STEP,
        "SelectiveScan",
        "o.h[i] = valid ? h : o.h[i];",
        "o.h[i] = h;",
    ),
    bug(
        "A with the wrong sign",
        _STEP,
        "SelectiveStateUpdate",
        "decay(dt, o.A[i] * kLog2E)",
        "decay(dt, -o.A[i] * kLog2E)",
    ),
    bug(
        "tokens look ahead",
        _MATRICES,
        "SSDChunkScan",
        "S[side][i] = ahead ? 0.0f : S[side][i] * (e * dt[j]);",
        "S[side][i] = S[side][i] * (e * dt[j]);",
    ),
    bug(
        "the state of the chunk before does not decay",
        _MATRICES,
        "SSDChunkScan",
        "{now.from_start[t], now.from_start[t + 8]}",
        "{1.0f, 1.0f}",
    ),
    bug(
        "the decay of a segment is that of its last chunk",
        _MATRICES,
        "SSDChunkScan",
        "carried *= whole;",
        "carried = whole;",
    ),
    bug(
        "segments do not decay",
        _ROWS,
        "SSDChunkScan",
        "h = fmaf(decay[i], h, left[i]);",
        "h = h + left[i];",
    ),
    bug(
        "D forgotten",
        _SSD_STEP,
        "SSDStateUpdate",
        "out[j] = valid ? fmaf(p.D[head], x[j], sum) : 0.0f;",
        "out[j] = valid ? sum : 0.0f;",
    ),
    bug(
        "the mean without eps", _NORM, "AddRMSNorm", "fmaf(squares, share, eps)", "squares * share"
    ),
    bug(
        "a warp's sum is lost",
        _NORM,
        "GatedRMSNorm",
        "for (int i = 0; i < kRowThreads / kWarp; ++i) total",
        "for (int i = 1; i < kRowThreads / kWarp; ++i) total",
    ),
]
