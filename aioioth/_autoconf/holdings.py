"""What each source says of a stack's interfaces, and the kernel made to agree."""

from __future__ import annotations

import asyncio
import errno
import logging
import math
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from aioioth import _iproute, _listing
from aioioth._autoconf.findings import NOTHING, Findings
from aioioth._autoconf.wanted import DHCP, DHCP6, RA, STATIC
from aioioth._iproute import control_socket
from aioioth._linux import netdevice
from aioioth._namespace import Namespace
from aioioth.errors import NetlinkError

if TYPE_CHECKING:
    from collections.abc import (
        Awaitable,
        Callable,
        Collection,
        Iterable,
        Iterator,
    )

    from aioioth._ip import IPAddress, IPInterface
    from aioioth._netstate import Monitor
    from aioioth.abc import Space
    from aioioth.iproute import Address, Route

    _Place = tuple[str, IPAddress | IPInterface]

_log = logging.getLogger("aioioth")

_T = TypeVar("_T")
_ThingT = TypeVar("_ThingT", "Address", "Route")


# What the kernel says of what it took away itself: with its time, its interface, or the
# address it depended on.
_GONE = {errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENODEV, errno.ENETUNREACH}


class Holdings:
    """Addresses, routes and MTUs of a stack by where they come from.

    Two sources may say the same; it is there until neither does.

    Args:
        space: The stack's.
        own: Its interfaces that aioioth made.
        monitor: Tells when an address is usable.
        learned: Called when DNS servers or domains may have changed.
    """

    def __init__(
        self,
        space: Space,
        own: Collection[str],
        monitor: Monitor,
        learned: Callable[[], None],
    ) -> None:
        self._space = space
        self._own = own
        self._monitor = monitor
        self._learned = learned
        self._held: dict[tuple[str, str], Findings] = {}
        self._added: set[_Place] = set()  # by us, and not by the user
        self._refused: set[Address | Route] = set()  # once is enough to say so
        self._first_mtu: dict[str, int] = {}
        self._lock = asyncio.Lock()

    def of(self, dev: str, source: str) -> Findings:
        """Return what a source said last."""
        return self._held.get((dev, source), NOTHING)

    def holds(self, thing: Address | Route) -> bool:
        """Whether some source says that it is to be there."""
        return any(
            thing in each.addresses or thing in each.routes
            for each in self._held.values()
        )

    def given_by_hand(self) -> list[str]:
        """Return the interfaces that were given something."""
        return [
            d for (d, source), each in self._held.items() if source == STATIC and each
        ]

    def take_over(self, dev: str, findings: Findings) -> None:
        """Hold what is in the kernel already, given by hand."""
        self._held[dev, STATIC] = findings
        self._added.update(map(_place, findings.addresses))

    def describe(self) -> Iterator[str]:
        """Yield what is held, one line for each thing."""
        for (dev, source), each in self._held.items():
            for what, things in vars(each).items():
                for thing in things if isinstance(things, tuple) else [things]:
                    if thing is not None:
                        yield f"{source} on {dev}: {what}: {thing}"

    def forget(self, dev: str) -> None:
        """Hold nothing of an interface that is gone."""
        for key in [key for key in self._held if key[0] == dev]:
            del self._held[key]
        self._added = {place for place in self._added if place[0] != dev}
        self._first_mtu.pop(dev, None)
        self._learned()

    def rename(self, old: str, new: str) -> None:
        """Hold what was of one interface as another's."""
        for dev, source in list(self._held):
            if dev == old:
                held = self._held.pop((dev, source))
                self._held[new, source] = replace(
                    held,
                    addresses=tuple(_renamed(each, new) for each in held.addresses),
                    routes=tuple(_renamed(each, new) for each in held.routes),
                )
        self._added = {(new if dev == old else dev, a) for dev, a in self._added}
        if old in self._first_mtu:
            self._first_mtu[new] = self._first_mtu.pop(old)

    def servers(self) -> Iterator[IPAddress]:
        """Yield the DNS servers, the most reliable first."""
        for each in self._ranked():
            yield from each.dns

    def domains(self) -> Iterator[str]:
        """Yield the search domains, likewise."""
        for each in self._ranked():
            yield from each.domains

    def _ranked(self) -> Iterator[Findings]:
        for wanted in (STATIC, DHCP6, RA, DHCP):
            for (_, source), findings in self._held.items():
                if source == wanted:
                    yield findings

    async def apply(
        self, dev: str, source: str, findings: Findings
    ) -> Collection[IPAddress]:
        """Have it be as a source says, in place of what it said before.

        Returns:
            Addresses that another one on the network has, which are not kept.

        Raises:
            NetlinkError: The kernel refused something; all else is done. Routes that
                somebody else wants us to have are only warned of.

        Cancellation:
            What was done stays, and is known.
        """
        async with self._lock:
            old = self.of(dev, source)
            # Even if we are cancelled: what may be in the kernel has to be held.
            self._held[dev, source] = _both(findings, old)
            # The kernel gives a new time only to what has one.
            await self._remove_routes(_now_finite(old.routes, findings.routes))
            for address in findings.addresses:
                if source != STATIC and await self._is_the_users(address):
                    continue
                self._added.add(_place(address))
            refusals = [
                *[await self._try(self._add_address, a) for a in findings.addresses],
                *[
                    await self._try(self._add_route, route, bearable=source != STATIC)
                    for route in findings.routes
                ],
            ]
            self._held[dev, source] = findings
            gone = _missing(old.routes, findings.routes)
            self._refused.difference_update(gone)
            await self._drop_routes(gone)
            await self._drop_addresses(_missing(old.addresses, findings.addresses))
            if old.mtu != findings.mtu:
                await self._set_mtus(dev)
        self._learned()
        # One that cannot be had shall not be the end of the others.
        for refusal in refusals:
            if refusal is not None:
                raise refusal
        new = _missing(findings.addresses, old.addresses)
        return await self._duplicated(dev, source, new)

    async def _duplicated(
        self, dev: str, source: str, new: Iterable[Address]
    ) -> Collection[IPAddress]:
        asked = {a.address.ip for a in new if a.address.version == 6 and not a.nodad}
        if not asked:
            return ()
        monitor = self._monitor

        def settled(monitor: Monitor) -> bool:
            links = {link.name: link for link in monitor.links}
            if dev not in links or not links[dev].carrier:
                return True  # nobody can answer
            return not any(
                a.tentative and not a.duplicated
                for a in monitor.addresses
                if a.dev == dev and a.address.ip in asked
            )

        await monitor.wait_for(settled)
        # The kernel keeps those that are for ever, and takes away the others.
        refused = {a for a in monitor.addresses if a.duplicated} | {*monitor.refused}
        taken = {a.address.ip for a in refused if a.dev == dev} & asked
        if taken:
            async with self._lock:
                held = self.of(dev, source)
                gone = [a for a in held.addresses if a.address.ip in taken]
                self._held[dev, source] = _without(held, taken)
                await self._drop_addresses(gone)
        return taken

    async def _change(self, command: str, thing: Address | Route) -> None:
        await _iproute.change_in(self._space, command, thing, own=self._own)

    async def _try(
        self,
        add: Callable[[_ThingT], Awaitable[None]],
        thing: _ThingT,
        *,
        bearable: bool = False,
    ) -> NetlinkError | None:
        try:
            await add(thing)
        except NetlinkError as error:
            if not bearable:
                return error
            # The network says so, and an address without it is better than none.
            if thing not in self._refused:
                _log.warning("%s", error)
            self._refused.add(thing)
        else:
            self._refused.discard(thing)
        return None

    # Addresses

    async def _is_the_users(self, address: Address) -> bool:
        """Whether it was there before any source said that it is to be."""
        if _place(address) in self._added:
            return False
        there = await _listing.addresses(self._space, address.dev)
        return _place(address) in map(_place, there)

    async def _add_address(self, address: Address) -> None:
        if _place(address) in self._added:
            # With the time of who wants it for the longest.
            wanted = max(self._wanted(address), key=_valid)
            await self._change("replace", wanted)

    def _wanted(self, address: Address) -> list[Address]:
        """Return the same address as all sources have it."""
        place = _place(address)
        held = (a for each in self._held.values() for a in each.addresses)
        return [each for each in held if _place(each) == place]

    async def _drop_addresses(self, addresses: Iterable[Address]) -> None:
        """Take away what nobody wants any more; the others for their own time."""
        for address in addresses:
            if self._wanted(address):
                await self._add_address(address)
            elif _place(address) in self._added:
                self._added.discard(_place(address))
                await self._remove_address(address)

    async def _remove_address(self, address: Address) -> None:
        # The kernel wants to hear the prefix length that came with it, first.
        try:
            for each in await _listing.addresses(self._space, address.dev):
                if _place(each) == _place(address):
                    await self._change("del", each)
        except NetlinkError as error:
            if error.errno not in _GONE:
                raise

    # Routes

    async def _add_route(self, route: Route) -> None:
        if route.destination.version == 4:
            await self._change("replace", route)
            return
        # Replacing would take away another router's route of the same metric; adding
        # what is there gives it a new lifetime all the same.
        try:
            await self._change("append", route)
        except NetlinkError as error:
            if error.errno != errno.EEXIST:
                raise

    async def _drop_routes(self, routes: Iterable[Route]) -> None:
        held = {route for each in self._held.values() for route in each.routes}
        await self._remove_routes(each for each in routes if each not in held)

    async def _remove_routes(self, routes: Iterable[Route]) -> None:
        for route in routes:
            try:
                await self._change("del", route)
            except NetlinkError as error:
                if error.errno not in _GONE:
                    raise

    # The MTU

    async def _set_mtus(self, dev: str) -> None:
        """Set what the sources say, but never more than the network carries."""
        with control_socket(self._space) as control:
            most = self._first_mtu.setdefault(
                dev, netdevice.interface_mtu(control, dev)
            )
        said = {
            source: min(each.mtu, most)
            for (name, source), each in self._held.items()
            if name == dev and each.mtu is not None
        }
        link = said.get(DHCP, most)
        await _iproute.carry_out(self._space, [_iproute.set_link(dev, mtu=link)])
        if isinstance(self._space, Namespace):
            # IPv6 alone obeys routers (RFC 4861 section 6.3.4). It has no such setting
            # where the link's MTU is too small for it.
            path = f"?net/ipv6/conf/{dev}/mtu"
            await self._space.sysctl(path, min(said.get(RA, link), link))


def _place(address: Address) -> _Place:
    """Return what the kernel tells addresses apart by: IPv6's by nothing else."""
    ip = address.address
    return address.dev, ip.ip if ip.version == 6 else ip


def _valid(address: Address) -> float:
    return math.inf if address.valid is None else address.valid


def _renamed(thing: _ThingT, dev: str) -> _ThingT:
    return replace(thing, dev=dev)


def _both(new: Findings, old: Findings) -> Findings:
    return Findings(
        new.addresses + _missing(old.addresses, new.addresses),
        new.routes + _missing(old.routes, new.routes),
        old.dns,
        old.domains,
        old.mtu,
        old.prefixes,
    )


def _missing(these: tuple[_T, ...], there: tuple[_T, ...]) -> tuple[_T, ...]:
    known = set(there)
    return tuple(each for each in these if each not in known)


def _now_finite(old: Iterable[Route], new: Iterable[Route]) -> list[Route]:
    """Return the routes of IPv6 that were for ever, and are not any more."""
    for_ever = {each for each in old if each.lifetime is None}
    return [each for each in new if each.lifetime is not None and each in for_ever]


def _without(findings: Findings, taken: Collection[IPAddress]) -> Findings:
    kept = tuple(a for a in findings.addresses if a.address.ip not in taken)
    return replace(findings, addresses=kept)
