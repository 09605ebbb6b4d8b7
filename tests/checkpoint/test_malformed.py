"""Every malformed checkpoint is refused for its own reason; nothing is run, nothing written."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from mamba_export.checkpoint import load_checkpoint
from mamba_export.errors import MambaExportError
from tests.checkpoint.malformed import MALFORMED, Malformed
from tests.checkpoint.spoiled import MARKER, valid


@pytest.mark.parametrize("row", MALFORMED, ids=lambda row: row.name)
def test_refused(row: Malformed, tmp_path: Path) -> None:
    row.build(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(MambaExportError) as caught:
        load_checkpoint(tmp_path)
    error = caught.value
    assert (type(error), error.code) == (row.error, f"checkpoint.{row.code}")
    assert (error.file, error.tensor) == (row.file, row.tensor)
    assert error.message
    assert error.hint
    assert error.expected is not None
    assert error.found is not None
    for field in (error.message, error.tensor or "", str(error.expected), str(error.found)):
        assert field.isascii()
        assert field.isprintable()
        assert len(field) < 400
    assert not (tmp_path / MARKER).exists()
    assert sorted(tmp_path.rglob("*")) == before


def test_base_case_is_valid(tmp_path: Path) -> None:
    # Otherwise every row above could fail for a reason that is not its own.
    valid(tmp_path)
    assert list(load_checkpoint(tmp_path).tensors) == ["first", "second"]


def test_table_covers_the_classes() -> None:
    names = Counter(row.name for row in MALFORMED)
    assert max(names.values()) == 1
    assert {name[0] for name in names} == set("ABCD")
    assert len(names) >= 60
