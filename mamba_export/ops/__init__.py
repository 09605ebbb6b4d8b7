"""The ops, each declared once in a file of its own; ``OPS`` lists them in a fixed order."""

from __future__ import annotations

from mamba_export.ops.add_rms_norm import add_rms_norm
from mamba_export.ops.causal_conv1d import causal_conv1d
from mamba_export.ops.causal_conv1d_update import causal_conv1d_update
from mamba_export.ops.contract import DOMAIN, PLUGIN_ATTRIBUTES, VERSION, Op, contract_table
from mamba_export.ops.conv_ssd_state_update import conv_ssd_state_update
from mamba_export.ops.gated_rms_norm import gated_rms_norm
from mamba_export.ops.selective_scan import selective_scan
from mamba_export.ops.selective_state_update import selective_state_update
from mamba_export.ops.ssd_chunk_scan import ssd_chunk_scan
from mamba_export.ops.ssd_state_update import ssd_state_update

OPS: tuple[Op, ...] = (
    causal_conv1d,
    causal_conv1d_update,
    selective_scan,
    selective_state_update,
    ssd_chunk_scan,
    ssd_state_update,
    conv_ssd_state_update,
    add_rms_norm,
    gated_rms_norm,
)

__all__ = [
    "DOMAIN",
    "OPS",
    "PLUGIN_ATTRIBUTES",
    "VERSION",
    "Op",
    "add_rms_norm",
    "causal_conv1d",
    "causal_conv1d_update",
    "contract_table",
    "conv_ssd_state_update",
    "gated_rms_norm",
    "selective_scan",
    "selective_state_update",
    "ssd_chunk_scan",
    "ssd_state_update",
]
