"""Links, addresses, routes and neighbours as the kernel has announced them.

Events are differences: between what is known and what is announced, or between what is
known and a dump. So nothing is told twice, and what the kernel left out, or never
announces, is made up for by the next dump. It needs one whenever `Tables.stale` is not
empty.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from aioioth import _decoding, events
from aioioth.wire import rtnetlink as rt

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from aioioth._dumps import Message
    from aioioth._ip import IPAddress, IPNetwork
    from aioioth.events import Event
    from aioioth.iproute import Address, Link, Neighbour, Route

    # What the kernel tells routes apart by, but for those that were appended.
    Place = tuple[IPNetwork, int, int]

LINKS: Final = "links"
ADDRESSES: Final = "addresses"
ROUTES: Final = "routes"
NEIGHBOURS: Final = "neighbours"
ALL: Final = frozenset({LINKS, ADDRESSES, ROUTES, NEIGHBOURS})

# The kernel's own: routes to itself, of broadcasts and multicast groups.
_LOCAL_TABLE = 255
_INDEX = struct.Struct("=4xi")  # in struct ifinfomsg

# Looking for a message's type takes a tenth of decoding it.
_SORTED_AT_ONCE = 10

# Of addresses that turned out to be another's and were taken away for that.
_KEPT_REFUSED = 1024


class Tables:
    """What is known, and what comes of being told more.

    Attributes:
        stale: Of which tables a dump is needed.
        refused: Addresses that the kernel took away since others have them.
    """

    def __init__(self) -> None:
        self.stale: set[str] = set()
        self.refused: dict[Address, None] = {}
        self._links: dict[int, Link] = {}
        self._names: dict[int, str] = {}
        self._addresses: dict[Address, Address] = {}
        self._routes: dict[Place, list[Route]] = {}
        self._neighbours: dict[tuple[str, IPAddress, bool], Neighbour] = {}

    @property
    def links(self) -> tuple[Link, ...]:
        """All links, ``lo`` first."""
        return tuple(self._links.values())

    @property
    def addresses(self) -> tuple[Address, ...]:
        """All addresses."""
        return tuple(self._addresses.values())

    @property
    def routes(self) -> tuple[Route, ...]:
        """All routes but those in the table ``local``."""
        return tuple(each for some in self._routes.values() for each in some)

    @property
    def neighbours(self) -> tuple[Neighbour, ...]:
        """All neighbours."""
        return tuple(self._neighbours.values())

    def take(self, data: bytes) -> list[Event]:
        """Take announcements that came together.

        Returns:
            What is different now.
        """
        told: list[Event] = []
        for kind, flags, body in rt.announcements(data):
            if kind == rt.RTM_NEWLINK:
                told += self._new_link(body)
            elif kind == rt.RTM_DELLINK:
                told += self._del_link(body)
            elif kind in {rt.RTM_NEWADDR, rt.RTM_DELADDR}:
                told += self._take_address(body, is_new=kind == rt.RTM_NEWADDR)
            elif kind == rt.RTM_NEWROUTE:
                told += self._new_route(flags, body)
            elif kind == rt.RTM_DELROUTE:
                told += self._del_route(body)
            elif kind in {rt.RTM_NEWNEIGH, rt.RTM_DELNEIGH}:
                told += self._take_neighbour(body, is_new=kind == rt.RTM_NEWNEIGH)
        return told

    def renew(
        self, tables: Collection[str], messages: Iterable[Message]
    ) -> Iterator[Event | None]:
        """Take a dump of whole tables, piece by piece.

        Args:
            tables: Which.
            messages: All that there is in them.

        Yields:
            What is different now; None after a piece of work that showed nothing.
        """
        by_kind: dict[int, list[bytes]] = {}
        for number, (kind, body) in enumerate(messages):
            by_kind.setdefault(kind, []).append(body)
            if not number % _SORTED_AT_ONCE:
                yield None
        # Links first, since the rest needs their names; the largest last.
        for table, kind, renew in (
            (LINKS, rt.RTM_NEWLINK, self._renew_links),
            (ADDRESSES, rt.RTM_NEWADDR, self._renew_addresses),
            (NEIGHBOURS, rt.RTM_NEWNEIGH, self._renew_neighbours),
            (ROUTES, rt.RTM_NEWROUTE, self._renew_routes),
        ):
            if table in tables:
                yield from renew(by_kind.get(kind, []))

    # Links

    def _new_link(self, body: bytes) -> Iterator[Event]:
        link = _decoding.link(body, self._names)
        if link is not None:
            yield from self._set_link(link)

    def _set_link(self, link: Link) -> Iterator[Event]:
        before = self._links.get(link.index)
        self._links[link.index] = link
        self._names[link.index] = link.name
        if before is None:
            yield events.LinkAdded(link.name, link)
        elif link != before:
            if link.name != before.name:
                self._rename(before.name, link.name)
            if before.up and not link.up:
                # IPv4's routes through it are gone, and nobody says so.
                self.stale.add(ROUTES)
            yield events.LinkChanged(link.name, link, before)

    def _del_link(self, body: bytes) -> Iterator[Event]:
        (index,) = _INDEX.unpack_from(body)
        # A bridge lets go of a port with the same message.
        if not body[0] and index in self._links:
            yield from self._forget_link(index)

    def _forget_link(self, index: int) -> Iterator[Event]:
        link = self._links.pop(index)
        del self._names[index]
        for address in [each for each in self._addresses if each.dev == link.name]:
            yield events.AddressRemoved(link.name, self._addresses.pop(address))
        for key in [each for each in self._neighbours if each[0] == link.name]:
            yield events.NeighbourRemoved(link.name, self._neighbours.pop(key))
        for address in [each for each in self.refused if each.dev == link.name]:
            del self.refused[address]
        self.stale.add(ROUTES)
        yield events.LinkRemoved(link.name, link)

    def _renew_links(self, bodies: list[bytes]) -> Iterator[Event | None]:
        named = _decoding.names((rt.RTM_NEWLINK, body) for body in bodies)
        for index in self._links.keys() - named.keys():
            yield from self._forget_link(index)
        for body in bodies:
            # Names are all known: a bridge may come after its ports.
            link = _decoding.link(body, named)
            if link is not None:
                yield from self._set_link(link)
            yield None

    def _rename(self, old: str, new: str) -> None:
        """Have all that is on a link be on it under its new name, without a word."""
        self.stale.add(LINKS)  # others may be its ports
        self._addresses = {
            each: each
            for known in self._addresses.values()
            for each in [replace(known, dev=new) if known.dev == old else known]
        }
        self._neighbours = {
            (each.dev, each.address, each.proxy): each
            for known in self._neighbours.values()
            for each in [replace(known, dev=new) if known.dev == old else known]
        }
        for routes in self._routes.values():
            routes[:] = [_renamed(route, old, new) for route in routes]

    # Addresses

    def _take_address(self, body: bytes, *, is_new: bool) -> Iterator[Event]:
        address = _decoding.address(body, self._names)
        if address is None:
            return
        if is_new:
            yield from self._set_address(address)
            return
        known = self._addresses.pop(address, None)
        if known is None:
            return
        if address.duplicated and not known.duplicated:
            # One with a lifetime is taken away in place of being marked.
            self.refused[address] = None
            if len(self.refused) > _KEPT_REFUSED:
                del self.refused[next(iter(self.refused))]
            yield events.AddressDuplicated(address.dev, address)
        if address.address.version == 4:
            # Routes that had it for their source are gone, and nobody says so.
            self.stale.add(ROUTES)
        yield events.AddressRemoved(address.dev, address)

    def _set_address(self, address: Address) -> Iterator[Event]:
        known = self._addresses.pop(address, None)
        self._addresses[address] = address
        if known is None:
            self.refused.pop(address, None)
            yield events.AddressAdded(address.dev, address)
        if address.usable and (known is None or not known.usable):
            yield events.AddressUsable(address.dev, address)
        if address.duplicated and (known is None or not known.duplicated):
            yield events.AddressDuplicated(address.dev, address)

    def _renew_addresses(self, bodies: list[bytes]) -> Iterator[Event | None]:
        found = {}
        for body in bodies:
            if (address := _decoding.address(body, self._names)) is not None:
                found[address] = address
            yield None
        for address in self.addresses:
            if address not in found:
                yield events.AddressRemoved(address.dev, self._addresses.pop(address))
            yield None
        for address in found.values():
            yield from self._set_address(address)
            yield None

    # Routes

    def _new_route(self, flags: int, body: bytes) -> Iterator[Event]:
        route = _decoding.route(body, self._names)
        if route is None or route.table == _LOCAL_TABLE:
            return
        there = self._routes.setdefault(_place(route), [])
        if route in there:
            there[there.index(route)] = route
        elif not there:
            there.append(route)
            yield _route_added(route)
        elif len(there) == 1 and flags & rt.NLM_F_REPLACE:
            yield _route_removed(there.pop())
            there.append(route)
            yield _route_added(route)
        else:
            # One more beside others, or they have become one with several ways.
            self.stale.add(ROUTES)

    def _del_route(self, body: bytes) -> Iterator[Event]:
        route = _decoding.route(body, self._names)
        if route is None:
            return
        there = self._routes.get(_place(route), [])
        if route in there:
            there.remove(route)
            if not there:
                del self._routes[_place(route)]
            yield _route_removed(route)
        elif there:
            self.stale.add(ROUTES)  # one of several ways, say

    def _renew_routes(self, bodies: list[bytes]) -> Iterator[Event | None]:
        found: dict[Route, None] = {}
        places: dict[Place, list[Route]] = {}
        for body in bodies:
            route = _decoding.route(body, self._names)
            if route is not None and route.table != _LOCAL_TABLE:
                found[route] = None
                places.setdefault(_place(route), []).append(route)
            yield None
        known = set()
        for route in self.routes:
            known.add(route)
            yield None if route in found else _route_removed(route)
        self._routes = places
        for route in found:
            yield None if route in known else _route_added(route)

    # Neighbours

    def _take_neighbour(self, body: bytes, *, is_new: bool) -> Iterator[Event]:
        neighbour = _decoding.neighbour(body, self._names, hidden=True)
        if neighbour is None:
            return
        if is_new and not _decoding.is_hidden(neighbour):
            yield from self._set_neighbour(neighbour)
            return
        known = self._neighbours.pop(_neighbour_key(neighbour), None)
        if known is not None:
            yield events.NeighbourRemoved(known.dev, known)

    def _set_neighbour(self, neighbour: Neighbour) -> Iterator[Event]:
        key = _neighbour_key(neighbour)
        known = self._neighbours.get(key)
        self._neighbours[key] = neighbour
        if known is None or vars(known) != vars(neighbour):
            yield events.NeighbourChanged(neighbour.dev, neighbour)

    def _renew_neighbours(self, bodies: list[bytes]) -> Iterator[Event | None]:
        found = {}
        for body in bodies:
            if (neighbour := _decoding.neighbour(body, self._names)) is not None:
                found[_neighbour_key(neighbour)] = neighbour
            yield None
        for key in tuple(self._neighbours):
            if key not in found:
                yield events.NeighbourRemoved(key[0], self._neighbours.pop(key))
            yield None
        for neighbour in found.values():
            yield from self._set_neighbour(neighbour)
            yield None


def _place(route: Route) -> Place:
    return route.destination, route.metric, route.table


def _route_added(route: Route) -> Event:
    return events.RouteAdded(route.dev or "", route)


def _route_removed(route: Route) -> Event:
    return events.RouteRemoved(route.dev or "", route)


def _neighbour_key(neighbour: Neighbour) -> tuple[str, IPAddress, bool]:
    return neighbour.dev, neighbour.address, neighbour.proxy


def _renamed(route: Route, old: str, new: str) -> Route:
    if route.dev == old:
        return replace(route, dev=new)
    if any(hop.dev == old for hop in route.nexthops):
        hops = (
            replace(hop, dev=new) if hop.dev == old else hop for hop in route.nexthops
        )
        return replace(route, nexthops=tuple(hops))
    return route
