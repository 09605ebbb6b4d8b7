"""The bar chart of the speeds of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PHASES = ("prefill", "decode")
PRECISIONS = {"float32": "float32", "8_bits": "8 bits", "4_bits": "4 bits"}
COLOURS = {
    "mamba-export": "#1f5fbf",
    "llama.cpp": "#e07b39",
    "mobius": "#5b9f6f",
    "transformers": "#8a8a8a",
}

Bar = tuple[str, str, float, float, float]
"""Precision, whose, and tokens a second: median, p10, p90."""


def write_chart(records: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draw the speeds of prefill and decode, a panel for each phase and family."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    families = list(dict.fromkeys(r["case"].split(".")[1] for r in records if _is_speed(r)))
    figure, panels = pyplot.subplots(
        len(PHASES), len(families), figsize=(6 * len(families), 7), squeeze=False
    )
    for row, phase in enumerate(PHASES):
        for column, family in enumerate(families):
            _panel(panels[row][column], f"{family}, {phase}", bars(records, phase, family))
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    pyplot.close(figure)


def bars(records: Sequence[Mapping[str, Any]], phase: str, family: str) -> list[Bar]:
    """Return the bars of a panel, ours first for each precision."""
    found: dict[tuple[str, str], Bar] = {}
    for record in records:
        if not _is_speed(record) or record["case"].split(".")[:2] != [phase, family]:
            continue
        precision = PRECISIONS[record["case"].split(".")[2]]
        tokens = record["seqlen"] if phase == "prefill" else 1
        for name, side in (("mamba-export", "ours_s"), (_short(record["subject"]), "peer_s")):
            seconds = record[side]
            rates = (tokens / seconds[each] for each in ("median", "p90", "p10"))
            found.setdefault((precision, name), (precision, name, *rates))
    order = list(PRECISIONS.values())
    return sorted(found.values(), key=lambda bar: (order.index(bar[0]), bar[1] != "mamba-export"))


def _panel(axes: Any, title: str, drawn: Sequence[Bar]) -> None:
    # llama.cpp's types are in its name, and F16 is not float32.
    labels = [name if " " in name else f"{name}\n{precision}" for precision, name, *_ in drawn]
    medians = [bar[2] for bar in drawn]
    errors = [[b[2] - b[3] for b in drawn], [b[4] - b[2] for b in drawn]]
    colours = [COLOURS[name.split()[0]] for _, name, *_ in drawn]
    places = axes.bar(range(len(drawn)), medians, color=colours, yerr=errors, capsize=2)
    axes.bar_label(places, [f"{value:.0f}" for value in medians], fontsize=8, padding=2)
    axes.set_xticks(range(len(drawn)), labels, fontsize=7, rotation=30, ha="right")
    axes.set_title(f"{title}: tokens a second", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)


def _is_speed(record: Mapping[str, Any]) -> bool:
    """Return whether a row has bars; one with other logits than usual has none."""
    phase, *names = record["case"].split(".")
    return phase in PHASES and len(names) == 2 and "ratio" in record["measures"]


def _short(subject: str) -> str:
    """Return a subject without its version: "llama.cpp F32" of "llama.cpp F32 0.5 0c1e570"."""
    words = subject.split()
    return " ".join(words[:2]) if words[0] == "llama.cpp" else words[0]
