"""A parity report as one HTML file: figures, error by position, error by layer, tables.

Self-contained: no script, no font, no picture is fetched. Light or dark as the reader's system is.
"""

from __future__ import annotations

import html
import importlib.resources
import math
from pathlib import Path

from mamba_export.errors import OutputError
from mamba_export.parity.chart import Series, log_chart
from mamba_export.parity.report import Check, OutputRow, ParityReport


def write_html(report: ParityReport, path: str | Path) -> None:
    """Write a report as a self-contained page.

    Args:
        report: of `check_parity`.
        path: the file; replaced if it exists.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        Path(path).write_text(render_html(report), encoding="utf-8")
    except OSError as error:
        raise OutputError(
            "the parity report cannot be written",
            "choose a file in a directory that exists and is writable",
            code="parity.report",
            file=str(path),
            found=error.strerror,
        ) from error


def render_html(report: ParityReport) -> str:
    """Return the page."""
    style = importlib.resources.files("mamba_export.parity").joinpath("report.css").read_text()
    verdict = "passed" if report.passed else "failed"
    title = f"{report.artifact}: parity {verdict}"
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{_text(title)}</title>",
            f"<style>{style}</style></head><body><main>",
            _header(report, verdict),
            _tiles(report),
            _charts(report),
            _checks_table(report.checks),
            _outputs_table(report.outputs),
            _environment(report),
            "</main></body></html>\n",
        ]
    )


def _header(report: ParityReport, verdict: str) -> str:
    failures = "".join(f"<li>{_text(line)}</li>" for line in report.failures)
    divergent = report.first_divergent_layer
    first = "" if divergent is None else f"<p>First divergent layer: <b>{divergent}</b></p>"
    return (
        f'<header><div class="line"><h1>{_text(report.artifact)}</h1>'
        f'<span class="badge {verdict}">{verdict}</span></div>'
        f'<p class="lead">{_text(report.dialect)} graph in {_text(report.dtype)}, compared with '
        f"{_text(report.reference)} over {report.batch} × {report.tokens} tokens "
        f"({_text(report.prompt)}).</p>"
        + (f'<div class="alert">{first}<ul>{failures}</ul></div>' if failures else "")
        + "</header>"
    )


def _tiles(report: ParityReport) -> str:
    logits = next(row for row in report.outputs if row.name == "logits")
    tiles = [
        (
            "Logits, relative RMS",
            _number(logits.relative_rms),
            f"limit {_number(logits.limit.relative_rms)}",
            logits.passed,
        )
    ]
    named = {check.name: check for check in report.checks}
    for name, title in (
        ("top-1 off the margin", "Top-1 flips off the margin"),
        ("prefill = steps", "Prefill against steps"),
        ("greedy tokens", "Greedy tokens agreed"),
    ):
        if name in named:
            check = named[name]
            limit = f"of {check.limit:g}" if name == "greedy tokens" else _limit(check.limit)
            tiles.append((title, _number(check.value), limit, check.passed))
    tiles.append(
        ("Weight of the memory", _number(report.memory_effect), "change when forgotten", True)
    )
    cells = "".join(
        f'<div class="tile{"" if passed else " bad"}"><span>{_text(title)}</span>'
        f"<b>{_text(value)}</b><small>{_text(note)}</small></div>"
        for title, value, note, passed in tiles
    )
    return f'<section class="tiles">{cells}</section>'


def _charts(report: ParityReport) -> str:
    logits = next(row for row in report.outputs if row.name == "logits")
    by_position = log_chart(
        [Series("logits", report.position_errors)],
        limit=logits.limit.relative_rms,
        x_title="position",
        describe="Relative RMS error of the logits at each position",
    )
    limits = [row.limit.relative_rms for row in report.outputs if row.layer is not None]
    by_layer = log_chart(
        [Series(name, values) for name, values in report.layer_errors.items()],
        limit=max(limits, default=logits.limit.relative_rms),
        x_title="layer",
        describe="Relative RMS error of each layer's final states",
        dots=True,
    )
    return (
        '<section class="charts">'
        f"<figure><figcaption>Error against position</figcaption>{by_position}</figure>"
        f"<figure><figcaption>Error by layer</figcaption>{by_layer}</figure>"
        "</section>"
    )


def _checks_table(checks: list[Check]) -> str:
    rows = "".join(
        f"<tr><td>{_mark(check.passed)}</td><td>{_text(check.name)}</td>"
        f'<td class="n">{_number(check.value)}</td><td class="n">{_number(check.limit)}</td>'
        f'<td class="wide">{_text(check.detail)}</td></tr>'
        for check in checks
    )
    return (
        "<section><h2>Checks</h2><table><thead><tr><th></th><th>check</th>"
        '<th class="n">value</th><th class="n">limit</th><th>detail</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></section>"
    )


def _outputs_table(outputs: list[OutputRow]) -> str:
    rows = "".join(
        f"<tr><td>{_mark(row.passed)}</td><td>{_text(row.title)}</td>"
        f'<td class="n">{_number(row.relative_rms)}</td>'
        f'<td class="n">{_number(row.limit.relative_rms)}</td>'
        f'<td class="n">{_number(row.max_error)}</td>'
        f'<td class="n">{_number(row.limit.max_error)}</td>'
        f"<td>{_text(row.problem or str(list(row.worst_index)))}</td>"
        f'<td class="n">{row.ours:.7g}</td><td class="n">{row.reference:.7g}</td></tr>'
        for row in outputs
    )
    return (
        "<section><h2>Outputs and states against the reference</h2><table><thead><tr>"
        '<th></th><th>tensor</th><th class="n">relative RMS</th><th class="n">limit</th>'
        '<th class="n">maximum</th><th class="n">limit</th><th>worst at</th>'
        '<th class="n">ours</th><th class="n">reference</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></section>"
    )


def _environment(report: ParityReport) -> str:
    items = "".join(
        f"<div><dt>{_text(key)}</dt><dd>{_text(str(value))}</dd></div>"
        for key, value in report.environment.items()
    )
    return f"<footer><dl>{items}</dl></footer>"


def _mark(passed: bool) -> str:
    word, sign = ("passed", "✓") if passed else ("failed", "✗")
    return f'<span class="mark {word}" title="{word}">{sign}</span>'


def _limit(value: float) -> str:
    return "none allowed" if value == 0 else f"limit {_number(value)}"


def _number(value: float) -> str:
    if math.isfinite(value) and value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.2g}" if abs(value) >= 0.01 else f"{value:.1e}".replace(".0e", "e")


def _text(value: str) -> str:
    return html.escape(value)
