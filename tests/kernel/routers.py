"""A host that listens to routers, without the rest of automatic configuration."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aioioth import _iproute
from aioioth._autoconf.findings import Findings
from aioioth._autoconf.ground import Ground
from aioioth._autoconf.ra import RaSource
from aioioth._linux import netdevice
from aioioth.errors import NetlinkError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection

    import pytest

    from aioioth import Stack
    from aioioth._ip import IPAddress
    from aioioth.iproute import Address, Route

PATIENCE = 20.0


class Listener:
    """Does to a stack's kernel what a source says, and keeps what it said.

    Attributes:
        said: All of it, and why; the last comes last.
        taken: Addresses to call another's.
    """

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.source: RaSource
        self.task: asyncio.Task[None]
        self.said: list[tuple[Findings | None, str]] = []
        self.taken: set[IPAddress] = set()

    @property
    def now(self) -> Findings:
        """What holds."""
        return (self.said and self.said[-1][0]) or Findings()

    async def apply(
        self, findings: Findings | None, cause: str = ""
    ) -> Collection[IPAddress]:
        space = self.stack._own_parts().space
        old, new = self.now, findings or Findings()
        for address in new.addresses:
            await _iproute.change_in(space, "replace", address)
        for route in new.routes:
            await _iproute.change_in(space, "replace", route)
        before: list[Address | Route] = [*old.addresses, *old.routes]
        for gone in before:
            if gone not in {*new.addresses, *new.routes}:
                with contextlib.suppress(NetlinkError):  # the kernel was faster
                    await _iproute.change_in(space, "del", gone)
        async with asyncio.timeout(PATIENCE):
            while any(each.tentative for each in await self.stack.addresses()):
                await asyncio.sleep(0.005)
        self.said.append((findings, cause))
        return self.taken & {each.address.ip for each in new.addresses}

    async def until(self, wanted: Callable[[Findings], object]) -> Findings:
        """Wait until what holds is as wanted."""
        async with asyncio.timeout(PATIENCE):
            while not (self.said and wanted(self.now)):
                assert not self.task.done(), self.task.exception()
                await asyncio.sleep(0.005)
        return self.now


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do without the pauses that keep those busy who send too much."""
    monkeypatch.setattr("aioioth._autoconf.ra_machine._PAUSE", 0.01)
    monkeypatch.setattr("aioioth._autoconf.ra_machine._PAUSE_EACH", 0.0)
    monkeypatch.setattr("aioioth._autoconf.ra_machine._FIRST_WAIT", 0.05)
    monkeypatch.setattr("aioioth.servers._ra_schedule._LEAST_DELAY", 0.01)


def leap(monkeypatch: pytest.MonkeyPatch, host: Listener, seconds: float) -> None:
    """Have the source's clock be ahead, so that nobody waits for times to be over."""
    loop = asyncio.get_running_loop()
    monkeypatch.setattr("aioioth._autoconf.ra._now", lambda: loop.time() + seconds)
    host.source._news.set()


@asynccontextmanager
async def listening(
    stack: Stack, dev: str = "vde0", *, fqdn: str | None = None, addresses: bool = True
) -> AsyncIterator[Listener]:
    """Run the source of router advertisements as long as the block lasts.

    The kernel asks whether an address is another's, but does not wait long.
    """
    await stack.sysctl(f"net.ipv6.conf.{dev}.router_solicitation_delay", 0)
    await stack.sysctl(f"net.ipv6.neigh.{dev}.retrans_time_ms", 20)
    space = stack._own_parts().space
    listener = Listener(stack)
    with _iproute.control_socket(space) as control:
        mac = netdevice.interface_mac(control, dev)
        ground = Ground(
            space=space,
            dev=dev,
            index=netdevice.interface_index(control, dev),
            mac=bytes.fromhex(mac.replace(":", "")),
            label=str(stack),
            fqdn=fqdn,
            apply=listener.apply,
        )
    listener.source = RaSource(ground, addresses=addresses)
    listener.task = asyncio.create_task(listener.source.run())
    try:
        yield listener
    finally:
        listener.source.release()
        listener.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await listener.task
