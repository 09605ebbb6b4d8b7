"""What is read back from an artifact are the weights of its model."""

from __future__ import annotations

import numpy as np
import pytest

from mamba_export.errors import ArtifactError
from mamba_export.graph.read_weights import read_weights
from tests.exported import Exports


@pytest.mark.parametrize("name", ["mamba", "mamba2", "falcon_mamba", "ssm2"])
def test_the_weights_of_an_artifact_are_the_model_s(name: str, exports: Exports) -> None:
    """Without quantisation, too: what is read back is the model, to the last bit."""
    from mamba_export.runtime.torch_session import TorchSession

    artifact = exports.artifact(name)
    manifest = artifact.manifest
    weights = ((weight.name, weight.values) for weight in read_weights(artifact))
    ours = TorchSession.from_weights(manifest.family, manifest.config, weights)
    theirs = TorchSession.open(exports.checkpoint(name))
    assert ours.model.config == theirs.model.config
    parameters = dict(theirs.model.named_parameters())
    assert dict(ours.model.named_parameters()).keys() == parameters.keys()
    for key, parameter in ours.model.named_parameters():
        assert np.array_equal(parameter.numpy(), parameters[key].numpy()), key


@pytest.mark.parametrize("damage", ["one missing", "one more", "another shape"])
def test_other_weights_than_the_model_s_are_refused(damage: str, exports: Exports) -> None:
    from mamba_export.runtime.torch_session import TorchSession

    artifact = exports.artifact("mamba2")
    weights = {weight.name: weight.values for weight in read_weights(artifact)}
    name = "backbone.layers.0.mixer.out_proj.weight"
    if damage == "one missing":
        del weights[name]
    elif damage == "one more":
        weights["backbone.layers.9.mixer.D"] = weights["backbone.layers.0.mixer.D"]
    else:
        weights[name] = weights[name].T
    manifest = artifact.manifest
    with pytest.raises(ArtifactError) as caught:
        TorchSession.from_weights(manifest.family, manifest.config, weights.items())
    assert caught.value.code == "artifact.weights"
