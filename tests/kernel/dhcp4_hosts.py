"""Stacks whose interface is configured by our DHCPv4 client, and nothing else."""

from __future__ import annotations

import asyncio
import errno
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from aioioth import _iproute
from aioioth._autoconf.dhcp4 import Dhcp4Source
from aioioth._autoconf.ground import Ground
from aioioth.errors import NetlinkError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection

    import aioioth
    from aioioth._autoconf.findings import Findings
    from aioioth._ip import IPAddress

PATIENCE = 20


class Host:
    """A stack whose only interface is configured by DHCP."""

    def __init__(self, stack: aioioth.Stack, fqdn: str | None = None) -> None:
        self.stack = stack
        [self.interface] = stack.interfaces.values()
        self.dev = self.interface.name
        self.space = stack._parts().space
        self.findings: Findings | None = None
        self.told: list[Findings | str] = []
        self.refusals = 0  # so many more
        self.on_told: Callable[[], object] = lambda: None
        self._news = asyncio.Event()
        mac = bytes.fromhex(self.interface.mac.replace(":", ""))
        ground = Ground(
            self.space,
            self.dev,
            self.interface.index,
            mac,
            str(stack),
            fqdn,
            self._apply,
        )
        self.source = Dhcp4Source(ground)

    @property
    def address(self) -> str:
        assert self.findings is not None
        [address] = self.findings.addresses
        return str(address.address.ip)

    async def _apply(
        self, findings: Findings | None, cause: str = ""
    ) -> Collection[IPAddress]:
        if self.refusals:
            self.refusals -= 1
            self.told.append("refused")
            self._news.set()
            raise NetlinkError(errno.EPERM, "ip address add")
        before, self.findings = self.findings, findings
        if before is not None:
            for route in before.routes:
                with suppress(NetlinkError):  # it went with the address
                    await _iproute.change_in(self.space, "del", route)
            for address in before.addresses:
                if findings is None or address not in findings.addresses:
                    with suppress(NetlinkError):  # the kernel may have been quicker
                        await _iproute.change_in(self.space, "del", address)
        if findings is not None:
            for address in findings.addresses:
                await _iproute.change_in(self.space, "replace", address)
            for route in findings.routes:
                await _iproute.change_in(self.space, "replace", route)
        self.told.append(cause if findings is None else findings)
        self.on_told()
        self._news.set()
        return ()

    def renew(self) -> None:
        """Have it be time to ask the server again."""
        machine = self.source._machine
        self.source._do(lambda _: machine.timer(machine.deadline))

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not true():
                self._news.clear()
                await self._news.wait()

    async def bound(self, times: int = 1) -> str:
        """Return the address once it was told so many times that there is one."""
        await self.until(
            lambda: sum(not isinstance(each, str) for each in self.told) >= times
        )
        return self.address

    async def lost(self) -> str:
        """Return why the address was lost."""
        await self.until(lambda: any(isinstance(each, str) for each in self.told))
        return next(each for each in self.told if isinstance(each, str))


@asynccontextmanager
async def running(host: Host) -> AsyncIterator[Host]:
    task = asyncio.create_task(host.source.run())
    try:
        yield host
    finally:
        host.source.release()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
