"""Runs an op's rows and routes on a library of emulated kernels, which may have a bug.

`python -m tests.mutations.cuda_rows LIBRARY OP`
"""

from __future__ import annotations

import sys
from pathlib import Path

from mamba_export.errors import ParityError
from tests.ops.cases import CASES
from tests.plugins.cuda_extremes import EXTREMES
from tests.plugins.cuda_routes import ROUTES
from tests.plugins.emulated_device import EmulatedKernels
from tests.plugins.test_cuda_kernels import test_rows
from tests.plugins.test_cuda_routes import (
    WIDE,
    never_launched,
    test_numbers_at_the_ends_of_float32,
    test_operands_may_lie_anywhere,
    test_route,
)


def main(library: str, op: str) -> int:
    """Return 1 if a row fails, as the fuzzer does."""
    kernels = EmulatedKernels(Path(library))
    try:
        if op == "SelectiveScan":
            for extreme in EXTREMES:
                test_numbers_at_the_ends_of_float32(extreme, kernels)
        for case in CASES:
            if case.op.name == op:
                test_rows(case, kernels)
        for route in ROUTES:
            if route.case.op.name == op:
                test_route(route, kernels)
                if route.name in WIDE:
                    test_operands_may_lie_anywhere(route.name, kernels)
        assert not never_launched(kernels)
    except (AssertionError, ParityError, RuntimeError) as error:
        sys.stderr.write(f"FAILED: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
