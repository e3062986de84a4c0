"""``lossy://PERCENT[seed=N]{VNL}``: a network that loses frames, on the way in and out.

With a seed the same frames are lost each time.
"""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import TYPE_CHECKING

from aioioth.nested import NestedTransport
from aioioth.networks import find_nested
from aioioth.vnl import parse_bracket

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["LossyTransport"]


class LossyTransport(NestedTransport):
    """See `aioioth.abc.FrameTransport`."""

    def __init__(self, address: str) -> None:
        parsed = parse_bracket(address, options=["seed"], nested=True)
        try:
            percent = float(parsed.base)
        except ValueError:
            percent = -1.0
        if not 0 <= percent <= 100:
            parsed.refuse("", "expected a percentage, as in lossy://5{memory://lan}")
        seed = None
        if "seed" in parsed.options:
            seed = parsed.integer("seed", 0, low=0, high=2**32 - 1)
        super().__init__(find_nested(parsed), lambda: _Loss(percent, seed), overhead=0)


class _Loss:
    """See `aioioth.nested.FrameTransform`."""

    def __init__(self, percent: float, seed: int | None) -> None:
        self.drops: Counter[str] = Counter()
        self._share = percent / 100
        self._random = Random(seed).random  # noqa: S311  (nothing to hide)

    def outgoing(self, frame: memoryview) -> Buffer | None:
        # The pump counts it, as "filtered".
        return None if self._random() < self._share else frame

    def incoming(self, frame: memoryview) -> Buffer | None:
        if self._random() < self._share:
            self.drops["lost on purpose"] += 1
            return None
        return frame

    def close(self) -> None:
        pass
