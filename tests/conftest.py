"""What every test shares: fixed seeds, and no network."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest

from tests.exported import exports, quantized  # noqa: F401 - fixtures

# Before huggingface_hub is imported: it reads this once.
os.environ["HF_HUB_OFFLINE"] = "1"
# Before torch is: threads of several workers wait for each other, 50 times as long as they work.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Make a test's random numbers the same whatever ran before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - what libraries under test may draw from


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that renews golden files."""
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="rewrite tests/golden from what is exported now",
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests recorded: figures that nobody asserts, such as the time of a build."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{report.nodeid}: {name} {value}")
