"""One protocol at work on one interface: begun, asked again, and ended."""

from __future__ import annotations

import asyncio
import importlib
import sys
from typing import TYPE_CHECKING, Any

from aioioth._autoconf.wanted import DHCP, DHCP6, RA

if TYPE_CHECKING:
    from aioioth._autoconf.ground import Ground, Source
    from aioioth._autoconf.wanted import Wanted


class Job:
    """One source at work on one interface.

    Args:
        wanted: What it began with.

    Attributes:
        wanted: As given.
        source: The protocol's.
        task: Runs it.
        is_true: Whether what it found out holds, and is in the kernel.
        was_asked: Whether it has not answered yet since it was asked.
    """

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
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


_PLACES = {
    RA: ("aioioth._autoconf.ra", "RaSource"),
    DHCP6: ("aioioth._autoconf.dhcp6", "Dhcp6Source"),
    DHCP: ("aioioth._autoconf.dhcp4", "Dhcp4Source"),
}


async def make_source(
    source: str, ground: Ground, wanted: Wanted, metric: int
) -> Source:
    """Return what speaks a protocol."""
    name, class_name = _PLACES[source]
    # Most stacks need none of them; and it takes some milliseconds that others can use.
    if name not in sys.modules:
        await asyncio.to_thread(importlib.import_module, name)
    kind: Any = getattr(importlib.import_module(name), class_name)
    options: dict[str, dict[str, object]] = {
        RA: {"addresses": wanted.slaac, "metric": metric},
        DHCP6: {"prefix_length": wanted.prefix_length},
        DHCP: {"metric": metric},
    }
    found: Source = kind(ground, **options[source])
    return found
