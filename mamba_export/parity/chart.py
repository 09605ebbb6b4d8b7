"""Line charts with a logarithmic error axis, as inline SVG. Colours come from the page's style."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

_WIDTH, _HEIGHT = 560, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 30, 40
_MOST_POINTS = 280
"""More than this many indices are drawn as the worst of each bin: a peak is never averaged away."""


@dataclass(frozen=True)
class Series:
    """A named line: one value at each index, from 0."""

    name: str
    values: Sequence[float]


def log_chart(
    series: Sequence[Series],
    *,
    limit: float,
    x_title: str,
    describe: str,
    dots: bool = False,
) -> str:
    """Return an SVG of errors on a logarithmic axis, with the limit as a dashed line.

    Args:
        series: lines of the same length; a value of 0 lies on the floor, one that is not finite on
            the ceiling.
        limit: drawn across.
        x_title: what the indices count.
        describe: the picture in words, for those who cannot see it.
        dots: mark each value.
    """
    length = max((len(line.values) for line in series), default=0)
    if length == 0:
        return '<p class="empty">nothing to draw: the outputs could not be compared</p>'
    axis = _Axis.around([value for line in series for value in line.values], limit)
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(describe)}">',
        f"<title>{html.escape(describe)}</title>",
        *_grid(axis),
        *_ticks(length, x_title),
        *_limit_line(axis, limit),
    ]
    for number, line in enumerate(series):
        parts += _line(axis, line, length, number, dots=dots)
    parts += _legend(series)
    return "".join([*parts, "</svg>"])


@dataclass(frozen=True)
class _Axis:
    """Whole decades from 10**low to 10**high; with zeros, the lowest line stands for them."""

    low: int
    high: int
    has_zeros: bool

    @classmethod
    def around(cls, values: Sequence[float], limit: float) -> _Axis:
        shown = [value for value in [*values, limit] if 0 < value < math.inf] or [1.0]
        has_zeros = min(values, default=1.0) <= 0
        low = math.floor(math.log10(min(shown)) + 1e-9) - has_zeros
        high = math.ceil(math.log10(max(shown)) + 0.15)
        return cls(low, max(high, low + 1), has_zeros)

    def y(self, value: float) -> float:
        if math.isnan(value) or value == math.inf:
            place = 1.0
        elif value <= 0:
            place = 0.0
        else:
            place = (math.log10(value) - self.low) / (self.high - self.low)
        place = min(max(place, 0.0), 1.0)
        return _HEIGHT - _BOTTOM - place * (_HEIGHT - _TOP - _BOTTOM)


def _x(index: float, length: int) -> float:
    place = 0.5 if length == 1 else index / (length - 1)
    return _LEFT + 8 + place * (_WIDTH - _LEFT - _RIGHT - 16)


def _grid(axis: _Axis) -> list[str]:
    step = max(1, math.ceil((axis.high - axis.low) / 6))
    parts = []
    for decade in range(axis.low, axis.high + 1):
        y = axis.y(10.0**decade)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        if decade == axis.low and axis.has_zeros:
            parts.append(
                f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">0</text>'
            )
        elif (decade - axis.low) % step == 0:
            sign = "\N{MINUS SIGN}" if decade < 0 else ""
            parts.append(
                f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">10'
                f'<tspan class="power" dy="-5">{sign}{abs(decade)}</tspan></text>'
            )
    return parts


def _ticks(length: int, title: str) -> list[str]:
    step = _round_step((length - 1) / 8)
    parts = [
        f'<text class="tick" x="{_x(index, length):.1f}" y="{_HEIGHT - _BOTTOM + 18}" '
        f'text-anchor="middle">{index}</text>'
        for index in range(0, length, step)
    ]
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(
        f'<text class="title" x="{middle:.0f}" y="{_HEIGHT - 4}" text-anchor="middle">'
        f"{html.escape(title)}</text>"
    )
    return parts


def _round_step(wanted: float) -> int:
    """Return the next of 1, 2, 5, 10, 20, 50, ... that is at least ``wanted``."""
    if wanted <= 1:
        return 1
    decade = 10 ** math.floor(math.log10(wanted))
    return int(next(m * decade for m in (1, 2, 5, 10) if m * decade >= wanted))


def _limit_line(axis: _Axis, limit: float) -> list[str]:
    y = axis.y(limit)
    return [
        f'<line class="limit" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>',
        f'<text class="limit-label" x="{_WIDTH - _RIGHT}" y="{y - 6:.1f}" text-anchor="end">'
        f"limit {limit:.0e}</text>",
    ]


def _line(axis: _Axis, line: Series, length: int, number: int, *, dots: bool) -> list[str]:
    points = [(_x(i, length), axis.y(value), i, value) for i, value in _worst_of_bins(line.values)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in points)
    parts = [f'<polyline class="line s{number}" points="{path}"/>']
    if dots or len(points) == 1:
        parts += [
            f'<circle class="dot s{number}" cx="{x:.1f}" cy="{y:.1f}" r="3.2">'
            f"<title>{html.escape(line.name)} {i}: {value:.2e}</title></circle>"
            for x, y, i, value in points
        ]
    return parts


def _worst_of_bins(values: Sequence[float]) -> list[tuple[int, float]]:
    width = math.ceil(len(values) / _MOST_POINTS)
    chosen = []
    for first in range(0, len(values), width):
        part = values[first : first + width]
        worst = max(range(len(part)), key=lambda i: math.inf if math.isnan(part[i]) else part[i])
        chosen.append((first + worst, part[worst]))
    return chosen


def _legend(series: Sequence[Series]) -> list[str]:
    parts, x = [], float(_LEFT)
    for number, line in enumerate(series):
        parts.append(
            f'<rect class="key s{number}" x="{x:.0f}" y="7" width="14" height="4" rx="2"/>'
            f'<text class="legend" x="{x + 20:.0f}" y="13">{html.escape(line.name)}</text>'
        )
        x += 34 + 6.6 * len(line.name)
    return parts
