"""JSON of a checkpoint: within limits, every spelling of infinity, keys given twice noticed."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any, NoReturn

from mamba_export.checkpoint.files import FETCH_AGAIN, shown
from mamba_export.errors import CheckpointError

DEPTH_LIMIT = 64
_INFINITIES = {
    "inf": math.inf,
    "+inf": math.inf,
    "-inf": -math.inf,
    "infinity": math.inf,
    "+infinity": math.inf,
    "-infinity": -math.inf,
}


@dataclass(frozen=True)
class Document:
    """A decoded JSON object.

    Attributes:
        value: the object; of a key given twice, the last value.
        repeated: dotted path of each key given more than once, with all its values in file order.
    """

    value: dict[str, Any]
    repeated: dict[str, list[Any]] = field(default_factory=dict)

    def ambiguous(self) -> dict[str, list[Any]]:
        """Return the repeated keys whose values differ."""
        return {
            path: values
            for path, values in self.repeated.items()
            if any(value != values[0] for value in values[1:])
        }


class _Pairs(dict[str, Any]):
    """A JSON object that remembers the earlier values of its repeated keys."""

    earlier: dict[str, list[Any]]

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.earlier = {}
        if len(self) < len(pairs):
            for key, value in pairs:
                self.earlier.setdefault(key, []).append(value)
            self.earlier = {key: seen for key, seen in self.earlier.items() if len(seen) > 1}


def decode_json(contents: bytes, file: str, *, infinities: bool = True) -> Document:
    """Decode a JSON object.

    Args:
        contents: UTF-8 text, without a byte order mark.
        file: its name, for messages.
        infinities: read ``"inf"``, ``"Infinity"`` (any case, with a sign) and
            ``{"__float__": "Infinity"}`` as numbers, as the bare token always is.

    Raises:
        CheckpointError: code ``checkpoint.json`` or ``checkpoint.json_depth``.
    """
    try:
        raw = json.loads(contents.decode("utf-8"), object_pairs_hook=_Pairs)
    except RecursionError as error:
        _too_deep(file, error)
    except UnicodeDecodeError as error:
        raise _malformed(
            file, "the file is not UTF-8 text", "UTF-8", f"byte {error.start} is not"
        ) from error
    except json.JSONDecodeError as error:
        found = f"{error.msg} at line {error.lineno}, column {error.colno}"
        raise _malformed(file, "the file is not JSON", "JSON", found) from error
    except ValueError as error:  # an integer of thousands of digits
        raise _malformed(file, "the file is not JSON that can be read", "JSON", error) from error
    if not isinstance(raw, dict):
        raise _malformed(
            file, "the file does not hold a JSON object", "an object", type(raw).__name__
        )
    repeated: dict[str, list[Any]] = {}
    value = _plain(raw, "", 1, file, repeated, infinities)
    return Document(value, repeated)


def _plain(
    raw: Any, path: str, depth: int, file: str, repeated: dict[str, list[Any]], infinities: bool
) -> Any:
    """Copy into plain dicts and lists, noting repeated keys under their dotted path."""
    if depth > DEPTH_LIMIT:
        _too_deep(file, None)
    if isinstance(raw, _Pairs):
        if infinities and len(raw) == 1 and isinstance(spelled := raw.get("__float__"), str):
            return _INFINITIES.get(spelled.lower(), math.nan if spelled == "NaN" else dict(raw))
        plain = {
            key: _plain(item, f"{path}{key}.", depth + 1, file, repeated, infinities)
            for key, item in raw.items()
        }
        for key, values in raw.earlier.items():
            # All but the last value are checked for depth and copied here, the last one above.
            copies = [
                _plain(item, f"{path}{key}.", depth + 1, file, {}, infinities)
                for item in values[:-1]
            ]
            repeated[path + key] = [*copies, plain[key]]
        return plain
    if isinstance(raw, list):
        return [_plain(item, path, depth + 1, file, repeated, infinities) for item in raw]
    if infinities and isinstance(raw, str):
        return _INFINITIES.get(raw.lower(), raw)
    return raw


def _too_deep(file: str, cause: BaseException | None) -> NoReturn:
    raise CheckpointError(
        "the JSON is nested too deeply",
        FETCH_AGAIN,
        code="checkpoint.json_depth",
        file=file,
        expected=f"at most {DEPTH_LIMIT} levels",
        found=f"more than {DEPTH_LIMIT} levels",
    ) from cause


def _malformed(file: str, message: str, expected: str, found: object) -> CheckpointError:
    return CheckpointError(
        message,
        FETCH_AGAIN,
        code="checkpoint.json",
        file=file,
        expected=expected,
        found=shown(found),
    )
