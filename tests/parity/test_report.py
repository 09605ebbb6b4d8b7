"""The report as JSON and as a page."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from mamba_export.errors import OutputError
from mamba_export.parity import write_html
from mamba_export.parity.chart import Series, log_chart
from mamba_export.parity.html import render_html
from tests.parity.test_check import check
from tests.parity.toy import ToySession


def test_json_holds_everything() -> None:
    report = check(ToySession({"decay of layer 1"}))
    loaded = json.loads(report.to_json())
    assert loaded["passed"] is False
    assert loaded["first_divergent_layer"] == 1
    assert loaded["outputs"][0]["name"] == "logits"
    assert loaded["outputs"][0]["limit"] == {"relative_rms": 1e-5, "max_error": 2e-4}
    assert loaded["position_errors"] == report.position_errors
    assert {check["name"] for check in loaded["checks"]} >= {"prefill = steps", "greedy tokens"}


def test_json_has_no_nan() -> None:
    text = check(ToySession({"NaN"})).to_json()
    loaded = json.loads(text, parse_constant=pytest.fail)
    assert loaded["outputs"][0]["relative_rms"] == "Infinity"


def test_manifest_summary_is_small() -> None:
    summary = check(ToySession()).summary()
    assert summary["passed"] is True
    assert len(json.dumps(summary)) < 1000


@pytest.mark.parametrize("faults", [set(), {"decay of layer 1"}, {"NaN"}])
def test_page_holds_the_figures(faults: set[str], tmp_path: Path) -> None:
    report = check(ToySession(faults))
    write_html(report, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert ("parity passed" in page) == report.passed
    for row in report.outputs:
        assert row.title in page
    for item in report.checks:
        assert item.name in page
    assert page.count("<svg") == 2
    assert page.count("<polyline") == 3


def test_page_fetches_nothing_and_runs_nothing() -> None:
    page = render_html(check(ToySession()))
    assert not re.search(r"https?://|<script|<link|@import|url\(|\bsrc=", page)


def test_page_is_well_formed() -> None:
    page = render_html(check(ToySession({"NaN"})))
    for svg in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL):
        ElementTree.fromstring(svg)


def test_names_are_escaped() -> None:
    page = render_html(check(ToySession(), name="<script>alert(1)</script>"))
    assert "<script>" not in page


def test_an_unwritable_page_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as caught:
        write_html(check(ToySession()), tmp_path / "absent" / "report.html")
    assert caught.value.file == str(tmp_path / "absent" / "report.html")


@pytest.mark.parametrize(
    "values",
    [[0.0], [1e-7], [0.0, 0.0], [1e-7, np.inf, np.nan], list(np.geomspace(1e-9, 1, 5000))],
    ids=["zero", "one", "zeros", "nonfinite", "many"],
)
def test_charts_of_odd_series(values: list[float]) -> None:
    svg = log_chart([Series("a<b", values)], limit=1e-5, x_title="x", describe="d & e", dots=True)
    root = ElementTree.fromstring(svg)
    points = next(e for e in root.iter() if e.tag == "polyline").attrib["points"].split()
    assert 1 <= len(points) <= 300
    coordinates = np.array([point.split(",") for point in points], dtype=float)
    assert ((coordinates >= 0) & (coordinates <= [560, 300])).all()


def test_a_chart_of_many_values_keeps_the_peak() -> None:
    values = [1e-7] * 5000
    values[3333] = 1e-2
    svg = log_chart([Series("a", values)], limit=1e-5, x_title="x", describe="d", dots=True)
    assert "a 3333: 1.00e-02" in svg


def test_an_empty_chart_says_so() -> None:
    assert "nothing to draw" in log_chart([], limit=1.0, x_title="x", describe="d")
