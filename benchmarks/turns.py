"""Who comes first, and who after whom."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["in_turn"]

_T = TypeVar("_T")


def in_turn(contenders: Sequence[_T], number: int) -> list[_T]:
    """Return the contenders in the order of a round.

    Whoever comes first finds a cold machine, and whoever comes behind a greedy one a
    warm one: so each is first equally often, and behind each other one too. A round
    with an odd number is the one before it backwards, so of each two, each comes before
    the other equally often.

    Source:
        Williams, "Experimental designs balanced for the estimation of residual effects
        of treatments", 1949: 0, 1, -1, 2, -2, ... and the same from each other start.
    """
    count = len(contenders)
    if count < 2:
        return list(contenders)
    # After so many rounds it begins again.
    start = number % math.lcm(count, 2) // 2
    steps = [(at + 1) // 2 if at % 2 else -(at // 2) for at in range(count)]
    order = [contenders[(start + step) % count] for step in steps]
    return order[::-1] if number % 2 else order
