"""Sizes of a checkpoint, recovered from tensor shapes and checked against its config."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mamba_export.checkpoint import Checkpoint
from mamba_export.errors import CheckpointError, UnsupportedModelError
from mamba_export.models.weights import stored_names

INIT_ONLY_SSM_KEYS = {
    *("dt_min", "dt_max", "dt_init", "dt_scale", "dt_init_floor", "A_init_range", "conv_init"),
    *("use_fast_path", "use_mem_eff_path", "layer_idx", "device", "dtype"),
    *("process_group", "sequence_parallel"),
}
"""Arguments of mamba_ssm's mixers that have no effect at inference."""

SSM_KEYS = {
    *("layer", "d_state", "d_conv", "expand", "dt_rank", "conv_bias", "bias", "headdim"),
    *("ngroups", "D_has_hdim", "rmsnorm", "norm_before_gate", "dt_limit", "chunk_size", "d_ssm"),
}
"""Arguments of mamba_ssm's mixers that the families read."""


def ssm_config(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """Return the mixer's options of a mamba_ssm config, empty where it has none.

    Raises:
        CheckpointError: they are no object.
    """
    ssm = checkpoint.config.get("ssm_cfg")
    if ssm is None:
        return {}
    if not isinstance(ssm, dict):
        raise CheckpointError(
            "ssm_cfg must be an object",
            "fetch config.json again from its publisher",
            code="checkpoint.config_value",
            file="config.json",
            tensor="ssm_cfg",
            expected="an object",
            found=ssm,
        )
    return ssm


class Geometry:
    """A checkpoint's config and tensor shapes under one set of names.

    Keys are looked up as ``key(ssm, hf)``: the mamba_ssm spelling (inside ``ssm_cfg``; at the top
    level of a Mistral ``params.json``) and the transformers spelling.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.config = checkpoint.config
        self.layout = checkpoint.layout
        self.config_file = "params.json" if self.layout == "mistral" else "config.json"
        names = stored_names(checkpoint)
        self.shapes = {name: checkpoint.tensors[names[name]].shape for name in names}
        ssm = ssm_config(checkpoint)
        self.ssm: Mapping[str, Any] = ssm if self.layout == "mamba_ssm" else self.config
        if self.layout == "mamba_ssm":
            for name in sorted(set(ssm) - SSM_KEYS - INIT_ONLY_SSM_KEYS):
                raise UnsupportedModelError(
                    f"ssm_cfg.{name} is not supported",
                    "remove the key if it has no effect at inference, or report it",
                    code="model.option",
                    file=self.config_file,
                    tensor=f"ssm_cfg.{name}",
                    expected=f"one of {', '.join(sorted(SSM_KEYS))}",
                    found=ssm[name],
                )

    # -- config ------------------------------------------------------------------------------

    def key(self, ssm: str, hf: str) -> Any:
        """Return the config's value, or None where it has none."""
        if self.layout == "transformers":
            return self.config.get(hf)
        return self.ssm.get(ssm, self.config.get(hf) if self.layout == "mistral" else None)

    def _spelling(self, ssm: str, hf: str) -> str:
        if self.layout == "mamba_ssm":
            return f"ssm_cfg.{ssm}"
        return hf if self.layout == "transformers" or ssm not in self.config else ssm

    def _mismatch(self, key: str, expected: object, found: object, why: str) -> CheckpointError:
        return CheckpointError(
            f"config and tensors disagree on {key}: {why}",
            "fetch the checkpoint again, or correct the config that was edited",
            code="checkpoint.geometry",
            file=self.config_file,
            tensor=key,
            expected=expected,
            found=found,
        )

    def positive(self, value: object, key: str) -> int:
        """Return a size from the config.

        Raises:
            CheckpointError: it is not a positive integer.
        """
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
            raise CheckpointError(
                f"{key} must be a positive integer",
                "fetch config.json again from its publisher",
                code="checkpoint.config_value",
                file=self.config_file,
                tensor=key,
                expected="a positive integer",
                found="null or absent" if value is None else value,
            )
        return value

    def flag(self, key: str, default: bool) -> bool:
        """Return a flag of the config that no tensor decides.

        Raises:
            CheckpointError: it is neither true nor false nor absent, or stands twice.
        """
        self._assert_once(key)
        return self._boolean(self.config.get(key), key, default)

    def ssm_flag(self, name: str, default: bool) -> bool:
        """Return a flag of ssm_cfg that no tensor decides. Raises as :meth:`flag`."""
        key = self._spelling(name, "")
        self._assert_once(key)
        return self._boolean(self.ssm.get(name), key, default)

    def _boolean(self, value: object, key: str, default: bool) -> bool:
        if value is None:
            return default
        if not isinstance(value, bool):
            raise CheckpointError(
                f"{key} must be true or false",
                "fetch config.json again from its publisher",
                code="checkpoint.config_value",
                file=self.config_file,
                tensor=key,
                expected="true or false",
                found=value,
            )
        return value

    def number(self, key: str, default: float) -> float:
        """Return a positive finite number of the config.

        Raises:
            CheckpointError: it is something else.
        """
        self._assert_once(key)
        value = self.config.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            value = float("nan")
        if not 0 < value < math.inf:
            raise CheckpointError(
                f"{key} must be a positive number",
                "fetch config.json again from its publisher",
                code="checkpoint.config_value",
                file=self.config_file,
                tensor=key,
                expected="a positive finite number",
                found=self.config[key],
            )
        return float(value)

    def _assert_once(self, key: str) -> None:
        """Refuse a key that the file repeats with other values, where no shape can decide."""
        if key in self.checkpoint.ambiguous:
            raise CheckpointError(
                f"{key} stands in the config more than once, with different values",
                "keep the line that the model was trained with",
                code="checkpoint.ambiguous",
                file=self.config_file,
                tensor=key,
                expected="one value",
                found=self.checkpoint.ambiguous[key],
            )

    def assert_key(self, ssm: str, hf: str, recovered: int) -> None:
        """Check a size of the config, where it states one, against the tensors.

        Raises:
            CheckpointError: they disagree.
        """
        value = self.key(ssm, hf)
        if value is not None:
            self.assert_value(ssm, hf, self.positive(value, self._spelling(ssm, hf)), recovered)

    def assert_value(self, ssm: str, hf: str, value: int, recovered: int) -> None:
        """Check a size that follows from the config against the tensors.

        Raises:
            CheckpointError: they disagree, and no second spelling of a repeated key agrees.
        """
        key = self._spelling(ssm, hf)
        if value != recovered and recovered not in self.checkpoint.ambiguous.get(key, ()):
            raise self._mismatch(key, value, recovered, f"{value} against {recovered}")

    def assert_divides(self, name: str, divisor: int, value: int) -> None:
        """Check that one size divides another.

        Raises:
            CheckpointError: it does not.
        """
        if divisor < 1 or value % divisor:
            raise self._mismatch(name, f"a divisor of {value}", divisor, "not a divisor")

    def assert_inner_width(self, recovered: int) -> None:
        """Check d_inner: ``intermediate_size`` where the file has it, else ``expand * d_model``.

        Raises:
            CheckpointError: config and tensors disagree.
        """
        if self.layout == "transformers" and self.config.get("intermediate_size") is not None:
            self.assert_key("", "intermediate_size", recovered)
            return
        expand = self.key("expand", "expand")
        if expand is None:
            return
        if (
            isinstance(expand, bool)
            or not isinstance(expand, int | float)
            or not 0 < expand < 2**31
        ):
            self.positive(expand, self._spelling("expand", "expand"))
        self.assert_value("expand", "expand", int(expand * self.d_model), recovered)

    def option(self, ssm: str, hf: str, tensor: str) -> bool:
        """Return whether an optional tensor of the mixer exists, and check the config's word on it.

        Raises:
            CheckpointError: config and tensors disagree.
        """
        present = f"backbone.layers.0.{tensor}" in self.shapes
        value = self.key(ssm, hf) if (hf or self.layout != "transformers") else None
        if self._boolean(value, self._spelling(ssm, hf), present) != present:
            state = "is there" if present else "is missing"
            raise self._mismatch(
                self._spelling(ssm, hf), value, present, f"layer 0's {tensor} {state}"
            )
        return present

    def count(
        self,
        ssm: str,
        hf: str,
        defaults: Mapping[str, int],
        *,
        default: int | None = None,
        divides: int | None = None,
    ) -> int:
        """Return a count that shapes alone do not decide.

        Args:
            ssm, hf: the key.
            defaults: the value by layout where the config has none; else ``default``.
            divides: a size that the count must divide.

        Raises:
            CheckpointError: it does not divide.
        """
        key = self._spelling(ssm, hf)
        value = self.key(ssm, hf)
        if value is None:
            value = defaults.get(self.layout, default)
        value = self.positive(value, key)
        candidates: list[int] = [value, *self.checkpoint.ambiguous.get(key, ())]
        state = self.key("d_state", "state_size")
        if divides is not None and len(candidates) > 1 and state is not None:
            # The key stands twice in the file: the tensors decide.
            value = next((int(c) for c in candidates if c * state == divides), value)
        if divides is not None and (divides < 1 or divides % value):
            raise self._mismatch(key, f"a divisor of {divides}", value, "not a divisor")
        return value

    def limits(self, ssm: str, hf: str) -> tuple[float, float]:
        """Return the clamp of dt: (0, inf) where the config has none.

        Raises:
            CheckpointError: it is not a pair of numbers with 0 <= low < high.
        """
        value = self.key(ssm, hf)
        self._assert_once(self._spelling(ssm, hf))
        if value is None:
            return 0.0, math.inf
        ok = isinstance(value, list | tuple) and len(value) == 2
        low, high = value if ok else (1.0, 0.0)
        high = math.inf if high is None else high
        low = 0.0 if low is None else low
        if not (
            all(isinstance(v, int | float) and not isinstance(v, bool) for v in (low, high))
            and 0 <= low < high
        ):
            raise CheckpointError(
                f"{self._spelling(ssm, hf)} must be a pair [low, high]",
                "fetch config.json again from its publisher",
                code="checkpoint.config_value",
                file=self.config_file,
                tensor=self._spelling(ssm, hf),
                expected="[low, high] with 0 <= low < high",
                found=value,
            )
        return float(low), float(high)

    def refuse(self, *ssm_keys: str) -> None:
        """Refuse mamba_ssm options that change the result and are not supported.

        Raises:
            UnsupportedModelError: one of them is set.
        """
        for name in ssm_keys:
            if self.layout == "mamba_ssm" and self.ssm.get(name):
                raise UnsupportedModelError(
                    f"ssm_cfg.{name} is not supported",
                    "no published checkpoint uses it; open an issue if yours does",
                    code="model.option",
                    file=self.config_file,
                    tensor=f"ssm_cfg.{name}",
                    expected="absent or false",
                    found=self.ssm[name],
                )

    # -- tensors -----------------------------------------------------------------------------

    @property
    def d_model(self) -> int:
        """Width of the residual stream, from the embedding."""
        return self._shape("backbone.embeddings.weight", rank=2)[1]

    def size(self, tensor: str, axis: int) -> int:
        """Return one size of a tensor of layer 0.

        Raises:
            CheckpointError: the tensor is missing, or its rank is wrong.
        """
        ranks = {"conv1d.weight": 3, "dt_bias": 1, "A_log": None}
        kind = tensor.removeprefix("mixer.")
        shape = self._shape(f"backbone.layers.0.{tensor}", rank=ranks.get(kind, 2))
        if axis >= len(shape):
            raise self._wrong_rank(f"backbone.layers.0.{tensor}", axis + 1)
        return shape[axis]

    def _shape(self, name: str, rank: int | None) -> tuple[int, ...]:
        if name not in self.shapes:
            raise CheckpointError(
                "a tensor is missing",
                "fetch the checkpoint again; if its family is another one, set model_type",
                code="checkpoint.missing_tensor",
                file=str(self.checkpoint.source),
                tensor=name,
                expected="present",
                found="absent",
            )
        if rank is not None and len(self.shapes[name]) != rank:
            raise self._wrong_rank(name, rank)
        return self.shapes[name]

    def _wrong_rank(self, name: str, rank: int) -> CheckpointError:
        return CheckpointError(
            "a tensor has the wrong rank",
            "fetch the checkpoint again, or convert it with its publisher's script",
            code="checkpoint.shape",
            file=str(self.checkpoint.source),
            tensor=name,
            expected=f"rank {rank}",
            found=list(self.shapes[name]),
        )


def backbone_fields(geometry: Geometry) -> dict[str, Any]:
    """Return the fields of :class:`BackboneConfig` for a checkpoint of any layout.

    Raises:
        CheckpointError: config and tensors disagree.
        UnsupportedModelError: an option of the container is not supported.
    """
    config, layout = geometry.config, geometry.layout
    rows = geometry._shape("backbone.embeddings.weight", rank=2)[0]
    names = {
        "mamba_ssm": ("d_model", "n_layer", "tie_embeddings"),
        "transformers": ("hidden_size", "num_hidden_layers", "tie_word_embeddings"),
        "mistral": ("dim", "n_layers", "tie_embeddings"),
    }
    d_model_key, n_layer_key, tie_key = names[layout]
    for key, recovered in ((d_model_key, geometry.d_model), (n_layer_key, _layers(geometry))):
        value = geometry.positive(config.get(key), key)
        if value != recovered and recovered not in geometry.checkpoint.ambiguous.get(key, ()):
            raise geometry._mismatch(key, value, recovered, f"{value} against {recovered}")
    vocab_size = geometry.positive(config.get("vocab_size"), "vocab_size")
    multiple = 1
    if layout == "mamba_ssm":
        _refuse_container_options(geometry)
        multiple = geometry.positive(
            config.get("pad_vocab_size_multiple", 8), "pad_vocab_size_multiple"
        )
    elif layout == "mistral":
        multiple = geometry.positive(
            config.get("pad_vocab_size_multiple", 1), "pad_vocab_size_multiple"
        )
    elif config.get("hidden_act", "silu") not in ("silu", "swish"):
        raise UnsupportedModelError(
            f"hidden_act {config['hidden_act']!r} is not supported",
            "only silu is; no published checkpoint uses another",
            code="model.option",
            file=geometry.config_file,
            tensor="hidden_act",
            expected="silu",
            found=config["hidden_act"],
        )
    if -(-vocab_size // multiple) * multiple != rows:
        raise geometry._mismatch(
            "vocab_size",
            f"{-(-vocab_size // multiple) * multiple} rows ({vocab_size} padded to {multiple})",
            rows,
            f"the embedding has {rows} rows",
        )
    has_head = "lm_head.weight" in geometry.shapes
    tied = geometry.flag(tie_key, layout == "mamba_ssm" or not has_head)
    return {
        "d_model": geometry.d_model,
        "n_layer": _layers(geometry),
        "vocab_size": vocab_size,
        "padded_vocab_size": rows,
        "norm_eps": (
            geometry.number("layer_norm_epsilon", 1e-5) if layout == "transformers" else 1e-5
        ),
        "rms_norm": layout == "transformers" or geometry.flag("rms_norm", True),
        "residual_in_fp32": geometry.flag("residual_in_fp32", True),
        "tie_embeddings": tied,
    }


def _layers(geometry: Geometry) -> int:
    prefix = "backbone.layers."
    indices = {n.split(".")[2] for n in geometry.shapes if n.startswith(prefix)}
    return len({int(i) for i in indices if i.isdecimal()})


def _refuse_container_options(geometry: Geometry) -> None:
    for key in ("d_intermediate", "attn_layer_idx"):
        if geometry.config.get(key):
            raise UnsupportedModelError(
                f"{key} is not supported: hybrid layers and MLP blocks are a later family",
                "supported: pure Mamba and Mamba-2 language models",
                code="model.option",
                file=geometry.config_file,
                tensor=key,
                expected="absent, 0 or []",
                found=geometry.config[key],
            )
