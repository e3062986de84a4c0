"""What a run came to, and how two of its figures compare."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field

__all__ = ["Growth", "Machine", "Results", "Spread", "Unavailable", "ratios"]


@dataclass(frozen=True)
class Spread:
    """Values of one figure over the rounds of a run.

    Attributes:
        values: In the order of the rounds; NaN where there was none.
    """

    values: tuple[float, ...]

    @property
    def known(self) -> list[float]:
        """The values that are numbers."""
        return [value for value in self.values if not math.isnan(value)]

    @property
    def median(self) -> float:
        """The median; NaN without any value."""
        return statistics.median(self.known) if self.known else math.nan

    @property
    def low(self) -> float:
        """The smallest value; NaN without any."""
        return min(self.known, default=math.nan)

    @property
    def high(self) -> float:
        """The largest value; NaN without any."""
        return max(self.known, default=math.nan)


def ratios(upper: Spread, lower: Spread) -> Spread:
    """Return ``upper`` divided by ``lower``, round by round.

    What disturbed a round disturbed both, so these ratios vary less than the figures.
    Figures that were not taken in the same rounds are compared by their medians.
    """
    if len(upper.values) != len(lower.values):
        if not (upper.known and lower.known and lower.median):
            return Spread(())
        return Spread((upper.median / lower.median,))
    pairs = zip(upper.values, lower.values, strict=True)
    return Spread(tuple(a / b if b else math.nan for a, b in pairs))


@dataclass(frozen=True)
class Unavailable:
    """What was left out of a run.

    Attributes:
        what: A title.
        why: What is missing, and how to get it if that is known.
    """

    what: str
    why: str


@dataclass(frozen=True)
class Machine:
    """Where and when a run took place.

    Attributes:
        bridges_filtered: Whether the kernel's bridges show what they carry to its
            packet filter (br_netfilter), as long as nobody switches that off.
    """

    date: str
    kernel: str
    python: str
    cores: int
    processor: str
    user: str
    busy: float
    load_program: str
    bridges_filtered: bool


@dataclass(frozen=True)
class Growth:
    """So many stacks in one program, on one network.

    Attributes:
        count: How many.
        seconds: From none to all of them, each with an address.
        memory: Of user space, in KiB: the program and what it started, when all are
            there, less what it was before the first.
        system: The whole machine's, in KiB, kernel included; noisy.
        connect: Seconds of the first TCP connect between the first and the last of
            them; infinite if it did not come about; NaN if it was not tried.
        closing: Seconds to close them all.
        descriptors: Open in the program, besides those it had before the first.
    """

    count: int
    seconds: float
    memory: float = math.nan
    system: float = math.nan
    connect: float = math.nan
    closing: float = math.nan
    descriptors: float = math.nan


@dataclass
class Results:
    """All of a run.

    Attributes:
        machine: Where and when.
        how: What was asked for, as on the command line.
        titles: Of the paths, by key, in the order of the report.
        ours: Keys of the paths that are aioioth's.
        figures: By path and measure. What belongs to no path has "" for it.
        growth: By who made the stacks: ``bridge``, ``script``, ``libvdestack``.
        left_out: What was not measured.
        seconds: How long the run took.
    """

    machine: Machine
    how: str = ""
    titles: dict[str, str] = field(default_factory=dict)
    ours: list[str] = field(default_factory=list)
    figures: dict[tuple[str, str], Spread] = field(default_factory=dict)
    growth: dict[str, list[Growth]] = field(default_factory=dict)
    left_out: list[Unavailable] = field(default_factory=list)
    seconds: float = math.nan

    def figure(self, path: str, measure: str) -> Spread:
        """Return a figure, without values if it was not taken."""
        return self.figures.get((path, measure), Spread(()))
