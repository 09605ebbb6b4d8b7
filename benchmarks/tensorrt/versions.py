"""Whether the headers that the plugins are compiled with are of the TensorRT that is to load them.

usage: python -m benchmarks.tensorrt.versions [ROOT_OF_THE_HEADERS]
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

SYSTEM = Path("/usr/include")


def main(arguments: Sequence[str]) -> int:
    """Print both major versions as JSON, or what is wrong; return whether they differ."""
    import tensorrt

    installed = int(tensorrt.__version__.split(".")[0])
    headers = _headers(arguments)
    if headers == installed:
        print(json.dumps({"headers": headers, "tensorrt": tensorrt.__version__}))
        return 0
    found = "not found" if headers is None else f"of TensorRT {headers}"
    print(
        f"the headers are {found}, and Python's tensorrt is {tensorrt.__version__}: set "
        f"TensorRT_ROOT to a release {installed}, or pip install 'tensorrt=={headers or 10}.*'"
    )
    return 1


def _headers(roots: Sequence[str]) -> int | None:
    """Return the major version in NvInferVersion.h, where CMake looks for it."""
    places = [Path(root) / "include" for root in roots if root]
    for place in (*places, SYSTEM, *SYSTEM.glob("*-linux-gnu")):
        if (file := place / "NvInferVersion.h").is_file():
            pattern = r"^#define (?:NV_TENSORRT|TRT)_MAJOR(?:_ENTERPRISE)? (\d+)"
            found = re.search(pattern, file.read_text(), re.MULTILINE)
            return None if found is None else int(found[1])
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
