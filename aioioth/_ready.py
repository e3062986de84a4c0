"""Waiting until a stack can be used as it was configured."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

from aioioth.errors import NetlinkError

if TYPE_CHECKING:
    from aioioth._netstate import Monitor
    from aioioth._running import Running
    from aioioth.iproute import Address


_UNKNOWN = ["there is much to look at"]


async def wait_ready(running: Running, label: str, timeout: float | None) -> None:
    """See `Stack.wait_ready`.

    Args:
        running: The stack.
        label: What it is called in messages.
        timeout: Seconds; None to wait for ever.

    Raises:
        NetlinkError: An address is another's.
        TimeoutError: It is not ready.
    """
    look = _Look(running)
    try:
        async with asyncio.timeout(timeout):
            if running.sources is not None:  # addresses come of them
                await running.sources.until_answered()
            await running.monitor.wait_for(look)
    except TimeoutError:
        missing = "; ".join(look.missing or _unanswered(running) or _UNKNOWN)
        msg = f"{label} is not ready after {timeout:g} s: {missing}"
        raise TimeoutError(msg) from None


def _unanswered(running: Running) -> list[str]:
    asked = () if running.sources is None else running.sources.unanswered
    return [f"no answer to {source} on {dev}" for dev, source in asked]


class _Look:
    """Looks whether all is there.

    Attributes:
        missing: What was not, the last time.
    """

    def __init__(self, running: Running) -> None:
        self._running = running
        self._tentative: set[Address] = set()
        self.missing: list[str] = []

    def __call__(self, monitor: Monitor) -> bool:
        self._refuse_duplicates(monitor)
        tentative = {each for each in monitor.addresses if each.tentative}
        self._tentative |= tentative
        usable = {each.name for each in monitor.links if each.up and each.carrier}
        self.missing = [
            f"{name} has no carrier, or is down"
            for name in self._running.interfaces
            if name not in usable
        ]
        self.missing += [
            f"{each.address} on {each.dev} is being looked for on its network"
            for each in tentative
        ]
        return not self.missing

    def _refuse_duplicates(self, monitor: Monitor) -> None:
        """Raise if an address is another's.

        One with a lifetime is gone then; it matters if we have waited for it.
        """
        for each in (
            *(each for each in monitor.addresses if each.duplicated),
            *self._tentative.intersection(monitor.refused),
        ):
            words = f"ip address add {each.address} dev {each.dev}"
            detail = "somebody else on its network has it"
            raise NetlinkError(errno.EADDRINUSE, words, detail)
