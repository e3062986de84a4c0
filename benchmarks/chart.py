"""A chart of dots as SVG: rows by path, a panel for each measure, no script, no font.

Colours are of middle lightness, so that it can be read on white and on black.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.results import Spread

__all__ = ["Dot", "Panel", "chart", "decades"]

_OURS, _OTHERS, _INK, _GRID = "#2f81f7", "#8b949e", "#768390", "#768390"

_LABELS, _PANEL, _GAP, _VALUE = 190, 150, 34, 46
_ROW, _RADIUS, _TOP, _BOTTOM = 24, 5, 66, 30


@dataclass(frozen=True)
class Dot:
    """One dot: a figure, and whether it is aioioth's."""

    title: str
    spread: Spread
    ours: bool


@dataclass(frozen=True)
class Panel:
    """A measure, with one dot for each row of the chart.

    Attributes:
        title: With the unit.
        note: Whether more or less is better.
        dots: In the order of the rows, which all panels share.
    """

    title: str
    note: str
    dots: Sequence[Dot]


def chart(title: str, panels: Sequence[Panel]) -> str:
    """Return the chart as SVG.

    Dots are medians; the line through a dot goes from the smallest to the largest
    value. The axes are logarithmic, since what is compared lies decades apart.

    Args:
        title: Said to those who cannot see it; not drawn.
        panels: At least one, all with dots for the same rows.
    """
    rows = [(dot.title, dot.ours) for dot in panels[0].dots]
    width = _LABELS + len(panels) * (_PANEL + _VALUE) + (len(panels) - 1) * _GAP
    height = _TOP + len(rows) * _ROW + _BOTTOM
    start = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="12">'
    )
    lines = [
        start,
        f"<title>{escape(title)}</title>",
        *_legend(),
    ]
    for row, (name, ours) in enumerate(rows):
        weight = ' font-weight="600"' if ours else ""
        y = _TOP + row * _ROW + _ROW / 2 + 4
        lines.append(_text(_LABELS - 10, y, name, f'text-anchor="end"{weight}'))
    for number, panel in enumerate(panels):
        lines += _panel(panel, _LABELS + number * (_PANEL + _VALUE + _GAP), len(rows))
    return "\n".join([*lines, "</svg>", ""])


def _legend() -> list[str]:
    lines = []
    for x, colour, words in ((12, _OURS, "aioioth"), (84, _OTHERS, "others")):
        lines += [
            f'<rect x="{x}" y="20" width="11" height="11" rx="2" fill="{colour}"/>',
            _text(x + 16, 30, words),
        ]
    return [*lines, _text(12, 46, "dot: median; line: range", 'font-size="11"')]


def _panel(panel: Panel, left: float, rows: int) -> Iterator[str]:
    known = [dot.spread for dot in panel.dots if dot.spread.known]
    low, high = decades(
        min((spread.low for spread in known), default=1.0),
        max((spread.high for spread in known), default=1.0),
    )

    def x(value: float) -> float:
        share = (math.log10(value) - low) / (high - low)
        return left + _PANEL * min(max(share, 0.0), 1.0)

    bottom = _TOP + rows * _ROW
    yield _text(left, 30, panel.title, 'font-weight="600"')
    yield _text(left, 46, panel.note, 'font-size="11"')
    for row in range(rows):
        y = _TOP + row * _ROW + _ROW / 2
        yield (
            f'<line x1="{left}" y1="{y:.1f}" x2="{left + _PANEL}" y2="{y:.1f}" '
            f'stroke="{_GRID}" stroke-opacity="0.3" stroke-dasharray="1 3"/>'
        )
    for exponent in range(low, high + 1):
        at = x(10.0**exponent)
        yield (
            f'<line x1="{at:.1f}" y1="{_TOP - 4}" x2="{at:.1f}" y2="{bottom}" '
            f'stroke="{_GRID}" stroke-opacity="0.3"/>'
        )
        label = _short(10.0**exponent)
        yield _text(at, bottom + 16, label, 'text-anchor="middle" font-size="11"')
    for row, dot in enumerate(panel.dots):
        yield from _dot(dot, left, _TOP + row * _ROW + _ROW / 2, x)


def _dot(dot: Dot, left: float, y: float, x: Callable[[float], float]) -> Iterator[str]:
    if not dot.spread.known:
        yield _text(left + 4, y + 4, "not measured", 'font-size="11"')
        return
    middle, first, last = (
        x(value) for value in (dot.spread.median, dot.spread.low, dot.spread.high)
    )
    colour = _OURS if dot.ours else _OTHERS
    yield (
        f'<line x1="{first:.1f}" y1="{y:.1f}" x2="{last:.1f}" y2="{y:.1f}" '
        f'stroke="{colour}" stroke-width="3" stroke-opacity="0.45"/>'
    )
    yield f'<circle cx="{middle:.1f}" cy="{y:.1f}" r="{_RADIUS}" fill="{colour}"/>'
    yield _text(max(middle, last) + _RADIUS + 4, y + 4, _short(dot.spread.median))


def decades(low: float, high: float) -> tuple[int, int]:
    """Return the powers of ten between which an axis goes, at least one decade."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return first, max(last, first + 1)


def _text(x: float, y: float, words: str, more: str = "") -> str:
    space = " " if more else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{_INK}"{space}{more}>'
        f"{escape(words)}</text>"
    )


def _short(value: float) -> str:
    if value >= 1_000_000:
        return f"{value / 1e6:.3g} M"
    return f"{value / 1e3:.3g} k" if value >= 1_000 else f"{value:.3g}"
