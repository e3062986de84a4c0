"""What can be said of an address, a route, a neighbour or a rule, checked and told."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from aioioth._ip import IPAddress, parse_address, parse_network
from aioioth.errors import ConfigurationError
from aioioth.wire import rtroute

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aioioth._ip import IPNetwork
    from aioioth.iproute import NextHop


# IFNAMSIZ without the NUL.
_LONGEST_NAME = 15
_OUT = set("/: \t\n\0")
_NUMBERS = frozenset(map(str, range(256)))


def destination_of(
    text: str | IPNetwork, via: IPAddress | None, nexthops: Sequence[NextHop]
) -> IPNetwork:
    """Return where a route leads; ``default`` is of its routers' address family.

    Raises:
        ConfigurationError: It is no network, or it has no address family.
    """
    if text != "default":
        return parse_network("destination", text)
    routers = [via, *(hop.via for hop in nexthops)]
    versions = {each.version for each in routers if each is not None}
    if not versions:
        msg = "route to 'default' without a router: write '0.0.0.0/0' or '::/0'"
        raise ConfigurationError(msg)
    return ipaddress.ip_network("::/0" if versions == {6} else "0.0.0.0/0")


def router_of(destination: object, via: str | IPAddress) -> IPAddress:
    """Return the router of a route.

    Raises:
        ConfigurationError: It is no address.
    """
    if isinstance(via, IPAddress):
        return via
    return parse_address(f"route to {destination} via", via)


def check_family(
    network: IPNetwork, via: IPAddress | None, source: IPAddress | None
) -> None:
    """Check what a route says besides.

    Raises:
        ConfigurationError: It is not of the network's address family.
    """
    # An IPv6 router may lead to an IPv4 network (RFC 5549), not the other way.
    wrong = None
    if via is not None and via.version == 4 and network.version == 6:
        wrong = f"via {via}"
    if source is not None and source.version != network.version:
        wrong = f"src {source}"
    if wrong is not None:
        msg = f"route to {network} {wrong}: one is IPv4, the other IPv6"
        raise ConfigurationError(msg)


def seconds(what: str, value: int | None) -> int | None:
    """Check a lifetime; None is for ever.

    Raises:
        ConfigurationError: It is none.
    """
    # The largest number means for ever to the kernel, and is None here.
    return None if value is None else number(what, value, 0, rtroute.FOREVER - 1)


def number(what: str, value: object, least: int, most: int) -> int:
    """Check a number.

    Raises:
        ConfigurationError: It is none, too small or too large.
    """
    if not isinstance(value, int) or not least <= value <= most:
        msg = f"{what}={value!r}: must be a number from {least} to {most}"
        raise ConfigurationError(msg)
    return value


def link_name(name: object) -> str:
    """Check what a link is, or shall be, called.

    Raises:
        ConfigurationError: The kernel has none of that name.
    """
    size = len(name.encode(errors="replace")) if isinstance(name, str) else 0
    if not isinstance(name, str) or not 0 < size <= _LONGEST_NAME or _OUT & set(name):
        msg = (
            f"{name!r} cannot be a link's name: 1 to {_LONGEST_NAME} bytes, no '/', "
            f"':' or spaces"
        )
        raise ConfigurationError(msg)
    return name


def one_of(what: str, value: object, known: Mapping[str, int]) -> None:
    """Check a word; the kernel may have numbers that have none.

    Raises:
        ConfigurationError: It is not known.
    """
    if not isinstance(value, str) or not (value in known or value in _NUMBERS):
        msg = f"{what}={value!r}: must be one of {', '.join(known)}"
        raise ConfigurationError(msg)


def words_of(*pairs: tuple[str, object]) -> list[str]:
    """Return words with their values, but for those that have none."""
    return [f"{word} {value}" for word, value in pairs if value is not None]
