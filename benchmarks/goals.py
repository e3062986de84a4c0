"""What aioioth is to reach, as ratios in one run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.closing import CLOSING
from benchmarks.results import Spread, ratios
from benchmarks.tables import number, spread_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.results import Growth, Results

__all__ = ["GOALS", "Goal", "further", "quicker", "shorter"]

_MANY = 1000


@dataclass(frozen=True)
class Goal:
    """A line of the first table.

    Attributes:
        figure: What is compared.
        peer: With what.
        value: Of a run; without values if it was not measured.
        goal: What it is to reach.
        at_most: Whether the goal is an upper limit.
        unit: Of the value, "" for a ratio.
    """

    figure: str
    peer: str
    value: Callable[[Results], Spread]
    goal: float
    at_most: bool = False
    unit: str = ""

    def row(self, results: Results) -> list[str]:
        """Return the cells of its line."""
        value = self.value(results)
        word = "at most" if self.at_most else "at least"
        aim = f"{word} {number(self.goal)}{self.unit and ' ' + self.unit}"
        if not value.known:
            return [self.figure, self.peer, "not measured", aim, "-"]
        excess = value.median - self.goal
        reached = excess <= 0 if self.at_most else excess >= 0
        return [
            self.figure,
            self.peer,
            spread_of(value, self.unit),
            aim,
            "yes" if reached else "**no**",
        ]


def quicker(ours: str, peer: str, measure: str) -> Callable[[Results], Spread]:
    """Return what compares a measure of which more is better."""
    return lambda results: ratios(
        results.figure(ours, measure), results.figure(peer, measure)
    )


def shorter(ours: str, peer: str, measure: str) -> Callable[[Results], Spread]:
    """Return what compares times; above 1, ours is shorter."""
    return quicker(peer, ours, measure)


def _figure(path: str, measure: str) -> Callable[[Results], Spread]:
    return lambda results: results.figure(path, measure)


def _creation(results: Results) -> Spread:
    return ratios(_grown(results, "script", "seconds"), _grown(results, "bridge"))


def _grown(results: Results, who: str, what: str = "seconds") -> Spread:
    """Return a figure of a thousand stacks."""
    several = [each for each in results.growth.get(who, ()) if each.count == _MANY]
    return Spread(tuple(getattr(each, what) for each in several))


def _memory(results: Results) -> Spread:
    ours = further(results.growth.get("bridge", ()))
    theirs = further(results.growth.get("libvdestack", ()))
    return ratios(ours, theirs)


def further(several: Sequence[Growth]) -> Spread:
    """Return the KiB of a further stack, from the smallest to the largest number."""
    if len(several) < 2:
        return Spread(())
    few, many = several[0], several[-1]
    return Spread(((many.memory - few.memory) / (many.count - few.count),))


def _scaled(spread: Spread, by: float) -> Spread:
    return Spread(tuple(value * by for value in spread.values))


_HAND = "veth and bridge, by hand"
_LIBVDESTACK = "libvdestack on vde_switch"

GOALS = (
    Goal("`bridge://`, TCP", _HAND, quicker("bridge", "hand-bridge", "tcp"), 0.95),
    Goal(
        "`bridge://`, round trip",
        _HAND,
        shorter("bridge", "hand-bridge", "rtt"),
        0.95,
    ),
    Goal(
        "`bridge://`, connections per second",
        _HAND,
        quicker("bridge", "hand-bridge", "connections"),
        0.95,
    ),
    Goal("`bridge://`, TCP", _LIBVDESTACK, quicker("bridge", "libvdestack", "tcp"), 15),
    Goal(
        "`vde://`, pure Python, TCP",
        _LIBVDESTACK,
        quicker("vde-pure", "libvdestack", "tcp"),
        0.75,
    ),
    Goal(
        "`vde://`, compiled step, TCP",
        _LIBVDESTACK,
        quicker("vde-compiled", "libvdestack", "tcp"),
        1.5,
    ),
    Goal("`memory://`, TCP", _LIBVDESTACK, quicker("memory", "libvdestack", "tcp"), 10),
    Goal("creation of 1,000 stacks", "a shell script", _creation, 5),
    Goal(
        "memory of a further stack, user space",
        "libvdestack",
        _memory,
        0.1,
        at_most=True,
    ),
    Goal(
        "first connect among 1,000 stacks",
        "-",
        lambda results: _scaled(_grown(results, "bridge", "connect"), 1e3),
        100,
        at_most=True,
        unit="ms",
    ),
    *(
        Goal(
            f"closing a stack on `{key}://`, the loop is held",
            "close of a TAP: see below",
            _figure(key, "closing"),
            0.3,
            at_most=True,
            unit="ms",
        )
        for key in CLOSING
    ),
    *(
        Goal(
            f"`{title}`, lateness of the loop under full load, p99",
            "-",
            _figure(key, "lateness"),
            5,
            at_most=True,
            unit="ms",
        )
        for key, title in (("memory", "memory://"), ("vde-pure", "vde://"))
    ),
)
