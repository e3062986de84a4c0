"""Having a stack be as somebody says, whether it is so already or not."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import TYPE_CHECKING

from aioioth import _listing
from aioioth._iproute import change_in
from aioioth.errors import NetlinkError
from aioioth.iproute import Address, Neighbour, Route, Rule

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from aioioth._iproute import Thing
    from aioioth.abc import Space
    from aioioth.iproute import NextHop


async def ensure(space: Space, thing: Thing, own: Collection[str]) -> bool:
    """Add something, or make what is there be so; see `Stack.ensure`.

    Args:
        space: The stack's.
        thing: What.
        own: See `aioioth._iproute.change_in`.

    Returns:
        Whether anything had to be done.

    Raises:
        NetlinkError: The kernel refused.
    """
    if isinstance(thing, Rule) and thing.version is None:
        both = [replace(thing, version=version) for version in (4, 6)]
        return any([await ensure(space, each, own) for each in both])
    # The kernel adds these again without a word.
    if isinstance(thing, Neighbour) and thing.proxy:
        if thing in await _listing.neighbours(space, thing.dev):
            return False
    elif isinstance(thing, Rule) and await _is_there(space, thing):
        return False
    try:
        await change_in(space, "add", thing, own=own)
    except NetlinkError as error:
        if error.errno != errno.EEXIST:
            raise
        if await _is_so(space, thing, error):
            return False
        await change_in(space, "replace", thing, own=own)
    return True


async def _is_there(space: Space, wanted: Rule) -> bool:
    return any(
        found
        == (
            wanted
            if wanted.priority is not None
            else replace(wanted, priority=found.priority)
        )
        for found in await _listing.rules(space)
    )


async def _is_so(space: Space, thing: Thing, refusal: NetlinkError) -> bool:
    """Return whether what stands in the way of something is that very thing.

    Raises:
        NetlinkError: It is something else, that cannot be made so.
    """
    if isinstance(thing, Address):
        addresses = await _listing.addresses(space, thing.dev)
        if thing not in addresses:
            raise refusal  # one with another prefix length or peer
        return _same_address(thing, addresses[addresses.index(thing)])
    if isinstance(thing, Route):
        version = thing.destination.version
        routes = await _listing.routes(space, thing.table, version)
        return any(_same_route(thing, each) for each in routes)
    if isinstance(thing, Neighbour):
        neighbours = await _listing.neighbours(space, thing.dev)
        return any(
            thing == each and (thing.state, thing.router) == (each.state, each.router)
            for each in neighbours
        )
    if await _is_there(space, thing):
        return True  # it came in between
    raise refusal  # one that says more, which the kernel takes for the same


def _same_address(wanted: Address, found: Address) -> bool:
    return (
        wanted.valid == found.valid
        and (wanted.valid if wanted.preferred is None else wanted.preferred)
        == found.preferred
        and wanted.noprefixroute == found.noprefixroute
    )


def _same_route(wanted: Route, found: Route) -> bool:
    """Compare what was said; what was not is the kernel's to choose."""
    place = (wanted.destination, wanted.metric, wanted.kind)
    if place != (found.destination, found.metric, found.kind):
        return False
    said = {
        "dev": wanted.dev,
        "source": wanted.source,
        "mtu": wanted.mtu,
        "lifetime": wanted.lifetime,
        "scope": wanted.scope,
        "onlink": wanted.onlink or None,
        "protocol": None if wanted.protocol == "boot" else wanted.protocol,
    }
    if any(
        value is not None and value != getattr(found, name)
        for name, value in said.items()
    ):
        return False
    if not wanted.nexthops:
        return wanted.via == found.via and not found.nexthops
    return _same_hops(wanted.nexthops, found)


def _same_hops(wanted: Iterable[NextHop], found: Route) -> bool:
    # A single one is no different from via= and dev= to the kernel.
    ways = [(hop.via, hop.dev, hop.weight) for hop in found.nexthops]
    left = ways or [(found.via, found.dev, 0)]
    for hop in wanted:
        for via, dev, weight in left:
            same_weight = hop.weight == weight or not ways
            if hop.via == via and hop.dev in {None, dev} and same_weight:
                left.remove((via, dev, weight))
                break
        else:
            return False
    return not left
