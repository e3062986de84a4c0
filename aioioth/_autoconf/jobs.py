"""One protocol at work on one interface: begun, asked again, and ended."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aioioth._autoconf.wanted import DHCP, DHCP6

if TYPE_CHECKING:
    from aioioth._autoconf.ground import Ground, Source
    from aioioth._autoconf.wanted import Wanted


class Job:
    """One source at work on one interface.

    Attributes:
        source: The protocol's.
        task: Runs it.
        is_true: Whether what it found out holds, and is in the kernel.
        was_asked: Whether it has not answered yet since it was asked.
    """

    def __init__(self) -> None:
        self.source: Source
        self.task: asyncio.Task[None]
        self.is_true = False
        self.was_asked = True

    @property
    def is_running(self) -> bool:
        """Whether it goes on."""
        return not self.task.done()

    @property
    def has_answered(self) -> bool:
        """Whether it has what it was asked for."""
        return self.is_true and not self.was_asked

    def begin(self, source: Source, name: str) -> None:
        """Run a source in a task."""
        self.source = source
        loop = asyncio.get_running_loop()
        self.task = loop.create_task(source.run(), name=f"aioioth: {name}")

    def raise_failure(self) -> None:
        """Raise what it has ended with, if it has ended by itself."""
        if self.task.done() and not self.task.cancelled():
            self.task.result()

    def release(self) -> None:
        """Tell the network that we are going."""
        if self.is_running:
            self.source.release()

    async def stop(self) -> None:
        """The same, and end."""
        self.release()
        self.task.cancel()
        await asyncio.wait([self.task])


def make_source(source: str, ground: Ground, wanted: Wanted, metric: int) -> Source:
    """Return what speaks a protocol."""
    # Not at the top: most stacks need none of them.
    if source == DHCP:
        from aioioth._autoconf.dhcp4 import Dhcp4Source

        return Dhcp4Source(ground, metric=metric)
    if source == DHCP6:
        from aioioth._autoconf.dhcp6 import Dhcp6Source

        return Dhcp6Source(ground, prefix_length=wanted.prefix_length)
    from aioioth._autoconf.ra import RaSource

    return RaSource(ground, addresses=wanted.slaac, metric=metric)
