"""What nvcc's assembler said of the CUDA kernels when the library was built."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from pathlib import Path

import pytest

from tests.plugins.programs import BUILD, ROOT, skip

KERNELS = ROOT / "plugins" / "kernels"
SOURCES = sorted(KERNELS.glob("*.cu"))
OBJECTS = BUILD / "plugins/plugins/kernels/CMakeFiles/mamba_cuda_kernels.dir"


def files_of(source: Path) -> set[Path]:
    """Return what is compiled for a source: itself and the headers beside it that it includes."""
    files, found = [source], {source}
    while files:
        names = re.findall(r'^#include "(\w+\.\w+)"', files.pop().read_text(), re.MULTILINE)
        # The emulated device has headers of its own elsewhere.
        new = {file for name in names if (file := KERNELS / name).is_file()} - found
        found |= new
        files += new
    return found


def reports() -> dict[Path, str]:
    """Return the report of each source; `make plugins CUDA=ON` writes them.

    A later build without CUDA leaves them where they are, whatever has become of the sources.
    """
    found = {source: OBJECTS / f"{source.name}.o.ptxas" for source in SOURCES}
    if not all(file.is_file() for file in found.values()):
        skip("the native ops were built without CUDA kernels: make plugins CUDA=ON")
    for source, report in found.items():
        for file in sorted(files_of(source)):
            if file.stat().st_mtime > report.stat().st_mtime:
                skip(f"{file.name} is newer than {report.name}: make plugins CUDA=ON")
    return {source: file.read_text() for source, file in found.items()}


def test_no_kernel_spills() -> None:
    kernels: dict[str, int] = defaultdict(int)
    for source, report in reports().items():
        name = architecture = ""
        for line in report.splitlines():
            if entry := re.search(r"Compiling entry function '(\w+)' for '(sm_\w+)'", line):
                name, architecture = entry.groups()
                kernels[architecture] += 1
            elif usage := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
                assert usage.groups() == ("0", "0"), f"{source.name}, {architecture}: {name}"
        assert architecture, f"the report of {source.name} names no kernel"
    assert len(set(kernels.values())) == 1, f"kernels by architecture: {dict(kernels)}"


@pytest.mark.parametrize("name", ["op.cu", "shared.cuh", "sizes.h"])
def test_a_report_older_than_what_it_is_of_does_not_count(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MAMBA_EXPORT_ALL_BUILT", raising=False)
    written = {
        "op.cu": '#include "shared.cuh"\n#include "emulated.h"\n',
        "shared.cuh": '#include "sizes.h"\n',
    }
    for each in ("op.cu", "shared.cuh", "sizes.h", "another.h", "op.cu.o.ptxas"):
        (tmp_path / each).write_text(written.get(each, ""))
        os.utime(tmp_path / each, (1, 1))
    for variable, value in (
        ("KERNELS", tmp_path),
        ("OBJECTS", tmp_path),
        ("SOURCES", [tmp_path / "op.cu"]),
    ):
        monkeypatch.setattr(f"{__name__}.{variable}", value)
    os.utime(tmp_path / "another.h", (2, 2))
    assert reports() == {tmp_path / "op.cu": ""}
    os.utime(tmp_path / name, (2, 2))
    with pytest.raises(pytest.skip.Exception, match=f"{name} is newer than op.cu.o.ptxas"):
        reports()
