"""What nvcc's assembler said of the CUDA kernels when the library was built."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from tests.plugins.programs import BUILD, ROOT, skip

SOURCES = sorted((ROOT / "plugins" / "kernels").glob("*.cu"))
OBJECTS = BUILD / "plugins/plugins/kernels/CMakeFiles/mamba_cuda_kernels.dir"


def reports() -> dict[Path, str]:
    """Return the report of each source; `make plugins CUDA=ON` writes them."""
    found = {source: OBJECTS / f"{source.name}.o.ptxas" for source in SOURCES}
    if not all(file.is_file() for file in found.values()):
        skip("the native ops were built without CUDA kernels: make plugins CUDA=ON")
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
