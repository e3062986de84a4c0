"""The last frames before somebody leaves a network."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

# A switch takes microseconds for what a send buffer holds.
_DRAIN_SECONDS = 0.2


class Draining(Protocol):
    """What may still have frames for a network."""

    def flush(self) -> None:
        """Send what is queued, one budget at most."""
        ...

    def unsent(self) -> int:
        """Return how many bytes the network has not taken yet."""
        ...


async def drain(leaving: Sequence[Draining]) -> None:
    """Let the last frames go: what is queued is sent and taken.

    A vde_switch that finds its client gone throws away what it has not read. One that
    does not read is not waited for long.
    """
    # Connections closed a moment ago say goodbye in the loop's next turn.
    await asyncio.sleep(0)
    for each in leaving:
        each.flush()
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _DRAIN_SECONDS
    while any(each.unsent() for each in leaving):
        if loop.time() > deadline:
            return
        await asyncio.sleep(0.001)
