"""One-time addresses: a server's address changes all the time, and friends know it.

The address is made of a name, a password and the time (`aioioth.hash_address`), and is
good for a period of some seconds. Who has the password calculates where the server is
just now; who has seen a packet knows it for half a minute, and who scans finds nothing.
::

    async with OneTimeAddresses(stack, "srv.lab", "fd00::/64", password="secret"):
        server = await stack.start_server(serve, "::", 443)

    # elsewhere, in another program
    address = otip_address("srv.lab", "fd00::/64", "secret")
    await client.open_connection(str(address), 443)

It protects from being found, not from being overheard: use TLS as ever.

Source: VirtualSquare's OTIP (otip-utils, ``otipaddr``, ``otip_rproxy``).
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import logging
import socket
import time
from typing import TYPE_CHECKING

from typing_extensions import override

from aioioth._background import carried
from aioioth._rotation import Rotation
from aioioth.errors import ClosedError, ConfigurationError, NetlinkError
from aioioth.hashes import DEFAULT_PERIOD, hash_address, otip_time
from aioioth.iproute import Address, Route
from aioioth.servers._server import Server

if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv6Address

    from aioioth.hashes import Base
    from aioioth.stack import Stack

__all__ = ["OneTimeAddresses", "otip_address"]

_log = logging.getLogger("aioioth")

# The longest time to sleep in one go: the clock of the wall may be set, and a machine
# may have slept.
_LONGEST_SLEEP = 5.0
_SHORTEST_SLEEP = 0.01
# What is gone, because the interface was set down and up again, is back soon.
_LONGEST_RENEWAL = 10.0
_LONGEST_LIFETIME = 86400
_BITS = 64

# Each has a route of its own: one's end shall not be the others', nor that of a route
# that somebody has set himself. The kernel's and the usual ones (up to 1024) win.
_metrics = itertools.count(4096)


def otip_address(
    name: str,
    base: Base,
    password: str | bytes,
    now: float | None = None,
    *,
    period: int = DEFAULT_PERIOD,
    offset: int = 0,
) -> IPv6Address:
    """Return the address that a server has at a moment.

    Args:
        name: The server's.
        base: Its network, or the address of that: ``fd00::/64``.
        password: What client and server know.
        now: The moment, in seconds since 1970; None for this one.
        period: Seconds that an address is good for.
        offset: Seconds that the server's clock is taken to be ahead.

    Raises:
        ConfigurationError: An argument cannot be right.
    """
    now = time.time() if now is None else now
    number = otip_time(now, period=period, offset=offset)
    return hash_address(name, base, password=password, time=number)


class OneTimeAddresses(Server):
    """Gives a stack the addresses of a name, each for its time.

    Besides the one of this period it has that of the next one and that of the last
    one, so that clocks need not agree better than by a period. A server listens on all
    of them by listening on ``::``. What the stack sends by itself leaves from its other
    addresses, if it has any: these here are deprecated from the beginning.

    An address whose time is over is taken away, but not under connections: as long as
    sockets of this process are connected on it, it stays for them, for ``linger``
    seconds and a few more at most. Whoever knows it can reach the server by it for as
    long, too.

    It runs from `open` to `aclose`, as ``async with`` does it, or to the stack's end.
    `aclose` takes all addresses away, under connections too. If the program hangs, or
    `open` or `aclose` is cancelled, the kernel takes them away after two periods, or a
    day if those are longer, and ten seconds.

    Args:
        stack: Whose addresses.
        name: The server's.
        base: Its network of 64 bits, or the address of that.
        password: The secret.
        dev: Name of the interface. None: the stack's first.
        period: Seconds that an address is good for. Clients need the same number.
        offset: Seconds that everything happens earlier.
        before: Seconds that an address is there before its period. None: a period.
        after: Seconds that it is there after its period. None: a period.
        linger: Seconds that it is there for connections after that.
        clock: Returns the seconds since 1970, as `time.time`.

    Raises:
        ConfigurationError: An argument cannot be right.
    """

    def __init__(  # noqa: PLR0913  (one keyword for each thing that can be chosen)
        self,
        stack: Stack,
        name: str,
        base: Base = "fd00::/64",
        *,
        password: str | bytes,
        dev: str | None = None,
        period: int = DEFAULT_PERIOD,
        offset: int = 0,
        before: float | None = None,
        after: float | None = None,
        linger: float = 3600.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(stack)
        before = period if before is None else before
        after = period if after is None else after
        self._rotation = Rotation(name, base, password, period, offset, before, after)
        self._wanted_dev = dev
        self._dev = ""
        self._linger = linger
        self._clock = clock
        # What the stack has, and since when on the loop's clock it should not: None
        # for what it should.
        self._have: dict[IPv6Address, float | None] = {}
        self._renew_at = 0.0
        self._metric = next(_metrics)

    @override
    def __str__(self) -> str:
        return f"one-time addresses of {self._rotation.name!r} on {self.stack}"

    @property
    def current(self) -> IPv6Address:
        """The address of this period, which clients use now."""
        return self._rotation.current(self._clock())

    @property
    def addresses(self) -> tuple[IPv6Address, ...]:
        """All that the stack has now; none if it is not open."""
        return tuple(self._have)

    @override
    @carried
    async def aclose(self) -> None:
        """Take the addresses away. Idempotent.

        Cancellation:
            It is closed all the same, and the kernel takes them away a little later.
        """
        gone = self.addresses
        await super().aclose()
        with contextlib.suppress(ClosedError):
            for address in gone:
                await self._remove(self._address(address))
            if gone:
                await self._remove(self._route())

    @override
    async def _start(self) -> None:
        dev = self._wanted_dev or next(iter(self.stack.interfaces), None)
        if dev is None:
            msg = f"{self.stack} has no interface for one-time addresses"
            raise ConfigurationError(msg)
        self._dev = dev
        self._at_end(self._have.clear)
        self._renew_at = _now()
        await self._rotate()
        self._spawn(self._run(), str(self))

    async def _run(self) -> None:
        complained = False
        while True:
            now = self._clock()
            wait = self._rotation.next_change(now) - now
            await asyncio.sleep(min(max(wait, _SHORTEST_SLEEP), _LONGEST_SLEEP))
            try:
                await self._rotate()
            except NetlinkError as error:
                # The interface may be down for a while, or gone for ever.
                if not complained:
                    _log.warning("%s: %s", self, error)
                complained = True
                await asyncio.sleep(_LONGEST_SLEEP)
            except ClosedError:
                return  # the stack was closed, and so are we
            else:
                complained = False

    async def _rotate(self) -> None:
        """Have the addresses of this moment, and those that are in use."""
        wanted = self._rotation.wanted(self._clock())
        now = _now()
        if self._have == dict.fromkeys(wanted) and now < self._renew_at:
            return
        is_new = not self._have.keys() >= set(wanted)
        for address in self._have.keys() - set(wanted):
            if self._have[address] is None:
                self._have[address] = now
        self._have.update(dict.fromkeys(wanted))
        await self._drop_unused(now)
        if is_new or now >= self._renew_at:
            # Should it fail, it is tried again.
            self._renew_at = now
            await self._renew()
            self._renew_at = now + min(self._rotation.period, _LONGEST_RENEWAL)

    async def _renew(self) -> None:
        # Should the program hang, or end badly, the kernel does the rest.
        lifetime = self._lifetime()
        for address in tuple(self._have):
            await self.stack.replace(self._address(address, lifetime))
        await self.stack.replace(self._route(lifetime))

    def _lifetime(self) -> int:
        return min(2 * self._rotation.period, _LONGEST_LIFETIME) + 10

    def _address(self, address: IPv6Address, lifetime: int | None = None) -> Address:
        return Address(
            ipaddress.IPv6Interface((address, _BITS)),
            self._dev,
            valid=lifetime,
            preferred=0,
            # The kernel's own route would take over the lifetime from here, also if it
            # belongs to an address that has none.
            noprefixroute=True,
        )

    def _route(self, lifetime: int | None = None) -> Route:
        address = int(self._rotation.current(0.0))
        network = ipaddress.IPv6Network((address, _BITS), strict=False)
        return Route(network, dev=self._dev, metric=self._metric, lifetime=lifetime)

    async def _drop_unused(self, now: float) -> None:
        over = {
            address: since for address, since in self._have.items() if since is not None
        }
        if not over:
            return
        # In a thread: with thousands of sockets it takes a while.
        used = await asyncio.to_thread(self._used)
        for address, since in over.items():
            if address not in used or now - since >= self._linger:
                await self._remove(self._address(address))
                self._have.pop(address, None)

    def _used(self) -> set[IPv6Address]:
        """Return the addresses that connections have."""
        return {
            ipaddress.IPv6Address(each.local[0].partition("%")[0])
            for each in self.stack.sockets()
            if each.family == socket.AF_INET6 and each.remote is not None
        }

    async def _remove(self, thing: Address | Route) -> None:
        with contextlib.suppress(NetlinkError):  # the kernel, or somebody, was faster
            await self.stack.remove(thing)


def _now() -> float:
    return asyncio.get_running_loop().time()
