"""Our eager models against the float64 oracle, which shares no code with them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mamba_export.checkpoint import load_checkpoint
from mamba_export.dtypes import DType
from mamba_export.models import load_model
from mamba_export.parity.metrics import compare_outputs
from mamba_export.parity.model_oracle import reference_logits
from mamba_export.parity.tolerances import Tolerance
from tests.factory import write_mamba_ssm
from tests.parity.test_model_oracle import ROWS, prompt, tensors, write

LIMIT = Tolerance(2e-6, 2e-4)

# What transformers has no model for, so that the oracle alone can judge it.
OURS_ALONE = {
    "Mamba LayerNorm": ("Mamba1", {"rms_norm": False}),
    "Mamba-2 LayerNorm": ("Mamba2", {"rms_norm": False}),
    "Mamba-2 gate without norm": ("Mamba2", {"rmsnorm": False}),
    "Mamba-2 norm before gate": ("Mamba2", {"norm_before_gate": True}),
}


@pytest.mark.parametrize("row", [*ROWS, *OURS_ALONE])
def test_eager_model_is_the_oracle(row: str, tmp_path: Path) -> None:
    if row in ROWS:
        directory = write(row, tmp_path)
    else:
        layer, changes = OURS_ALONE[row]
        directory = write_mamba_ssm(tmp_path, layer, **changes)
    checkpoint = load_checkpoint(directory)
    model = load_model(checkpoint, DType.float32)
    ids = prompt(tokens=70)
    specs = model.config.state_specs(DType.float32)
    empty = [torch.zeros(len(ids), *spec.shape) for spec in specs]
    with torch.inference_mode():
        logits, states = model(torch.tensor(ids), empty)
    ours = {"logits": logits.numpy()}
    for spec, state in zip(specs, states, strict=True):
        ours[f"{spec.layer} {spec.kind}"] = state.numpy()
    expected = tensors(reference_logits(checkpoint, ids))
    results = compare_outputs(ours, expected, dict.fromkeys(expected, LIMIT))
    failed = {name: result.describe() for name, result in results.items() if not result.passed}
    assert not failed
