"""Stacks that configure themselves by DHCPv6, and nothing else."""

from __future__ import annotations

import asyncio
import errno
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING

import aioioth
from aioioth import _iproute
from aioioth._autoconf.dhcp6 import Dhcp6Source
from aioioth._autoconf.findings import Findings
from aioioth._autoconf.ground import Ground
from aioioth._autoconf.holdings import Holdings
from aioioth._netstate import Monitor
from aioioth.errors import NetlinkError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection

    from aioioth._ip import IPAddress

PATIENCE = 20


class Host:
    """A stack with a DHCPv6 client on its only interface."""

    def __init__(
        self,
        stack: aioioth.Stack,
        fqdn: str | None = None,
        prefix_length: int | None = None,
    ) -> None:
        self.stack = stack
        [self.interface] = stack.interfaces.values()
        self.dev = self.interface.name
        self.space = stack._parts().space
        self.told: list[Findings | str] = []
        self.refusals = 0  # of the kernel's; so many more
        self.monitor = Monitor(self.space)
        self.monitor.start()
        self._holdings = Holdings(self.space, [self.dev], self.monitor, lambda: None)
        self._news = asyncio.Event()
        self.mac = bytes.fromhex(self.interface.mac.replace(":", ""))
        index, label = self.interface.index, str(stack)
        ground = Ground(self.space, self.dev, index, self.mac, label, fqdn, self._apply)
        self.source = Dhcp6Source(ground, prefix_length=prefix_length)

    async def prepare(self, *, dad: bool = False) -> None:
        """Do what is the stack's business and not the client's."""
        conf = f"net.ipv6.conf.{self.dev}"
        await self.stack.sysctl(f"{conf}.router_solicitation_delay", 0)
        # Looking for duplicates takes a second.
        await self.stack.sysctl(f"{conf}.dad_transmits", int(dad))
        requests = _iproute.add_link_local(
            self.dev, self.interface.index, self.interface.mac
        )
        await _iproute.carry_out(self.space, requests)

    async def _apply(
        self, findings: Findings | None, cause: str = ""
    ) -> Collection[IPAddress]:
        if self.refusals:
            self.refusals -= 1
            raise NetlinkError(errno.EACCES, "ip address replace")
        found = Findings() if findings is None else findings
        taken = await self._holdings.apply(self.dev, "dhcp6", found)
        self.told.append(cause if findings is None else findings)
        self._news.set()
        return taken

    @property
    def address(self) -> str:
        """The address that was told last."""
        found = self.told[-1]
        assert isinstance(found, Findings)
        [address] = found.addresses
        assert address.address.network.prefixlen == 128
        return str(address.address.ip)

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not true():
                self._news.clear()
                await self._news.wait()

    async def bound(self, times: int = 1) -> str:
        """Return the address, once it was told so many times."""
        await self.until(
            lambda: sum(isinstance(each, Findings) for each in self.told) >= times
        )
        return self.address

    async def lost(self) -> str:
        """Return why it was lost; forget that."""
        await self.until(lambda: any(isinstance(each, str) for each in self.told))
        cause = next(each for each in self.told if isinstance(each, str))
        self.told.clear()
        return cause

    async def in_kernel(self) -> set[str]:
        """Return the addresses that it has."""
        found = await self.stack.addresses(self.dev)
        return {
            str(each.address.ip)
            for each in found
            if each.address.version == 6 and not each.address.is_link_local
        }


@asynccontextmanager
async def running(host: Host, *, release: bool = True) -> AsyncIterator[Host]:
    """Have the client run as long as the block does."""
    task = asyncio.create_task(host.source.run())
    try:
        yield host
    finally:
        if release:
            host.source.release()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        host.monitor.close()


@asynccontextmanager
async def configured(
    vnl: str,
    *,
    name: str | None = None,
    mac: str | None = None,
    fqdn: str | None = None,
    prefix_length: int | None = None,
    dad: bool = False,
    release: bool = True,
) -> AsyncIterator[Host]:
    """Run a stack that asks for its configuration."""
    async with AsyncExitStack() as undo:
        stack = aioioth.Stack(vnl, name=name, mac=mac)
        await undo.enter_async_context(stack)
        host = Host(stack, fqdn, prefix_length)
        await host.prepare(dad=dad)
        yield await undo.enter_async_context(running(host, release=release))
