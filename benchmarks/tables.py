"""Pieces of a page in Markdown: sections, tables and numbers."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from benchmarks.results import Spread

__all__ = ["number", "section", "spread_of", "table"]


def section(title: str, words: str, table: str, level: int = 2) -> str:
    """Return a heading, a paragraph and what is below it."""
    filled = textwrap.fill(words, 88, break_long_words=False, break_on_hyphens=False)
    return f"{'#' * level} {title}\n\n{filled}\n\n{table}"


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = False
) -> str:
    """Return a table; all columns but the first hold ``numbers``, or not."""
    line = ["---", *(["--:" if numbers else "---"] * (len(head) - 1))]
    return "\n".join(_lines([head, line, *rows]))


def _lines(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    for row in rows:
        yield f"| {' | '.join(row)} |"


def number(value: float) -> str:
    """Return three digits of a number, and no exponent."""
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "never"
    value = float(value)
    if abs(value) >= 100:
        return f"{value:,.0f}"
    digits = 2 if abs(value) < 10 else 1
    if value.is_integer():
        return f"{value:.0f}"
    return f"{value:.{digits}f}" if abs(value) >= 0.1 else f"{value:.2g}"


def spread_of(spread: Spread, unit: str = "") -> str:
    """Return a median, with the smallest and the largest value behind it."""
    if not spread.known:
        return "-"
    ending = f" {unit}" if unit else ""
    if len(spread.known) == 1:
        return f"{number(spread.median)}{ending}"
    low, high = number(spread.low), number(spread.high)
    return f"{number(spread.median)}{ending} ({low} to {high})"
