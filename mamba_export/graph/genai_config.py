"""The configuration with which onnxruntime-genai opens an artifact."""

from __future__ import annotations

import json

from mamba_export.graph.special_tokens import SpecialTokens
from mamba_export.models.backbone import BackboneConfig

CONTEXT_LENGTH = 2**20
"""The recurrence sets no limit; genai wants a number."""


def genai_config(config: BackboneConfig, tokens: SpecialTokens, *, padded: bool) -> str:
    """Return the text of genai_config.json for a graph with genai's names.

    Args:
        config: sizes.
        tokens: without an end token none ends a text.
        padded: the graph takes an attention_mask.
    """
    # genai refuses an end token that is no row of the vocabulary, and takes an empty list of them.
    inputs = {"input_ids": "input_ids"}
    if padded:
        inputs["attention_mask"] = "attention_mask"
    fields = {
        "model": {
            "type": "decoder",
            "vocab_size": config.padded_vocab_size,
            "context_length": CONTEXT_LENGTH,
            "bos_token_id": tokens.begin,
            "eos_token_id": list(tokens.ends),
            "pad_token_id": tokens.pad,
            "decoder": {
                "filename": "model.onnx",
                "hidden_size": config.d_model,
                "num_hidden_layers": config.n_layer,
                "inputs": inputs,
                "outputs": {"logits": "logits"},
            },
        },
        "search": {"do_sample": False, "max_length": CONTEXT_LENGTH},
    }
    return json.dumps(fields, indent=2) + "\n"
