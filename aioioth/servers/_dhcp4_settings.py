"""What a DHCPv4 server is told to do, checked."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING

from aioioth import _hosts
from aioioth._ip import parse_mac
from aioioth.errors import ConfigurationError
from aioioth.servers._dhcp4_leases import Pool
from aioioth.wire.ethernet import packed_mac

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from aioioth.servers._dhcp4_answers import Terms

# So many are given out of a larger pool, too. Each one that somebody has asked for
# takes some 500 bytes, and anybody can ask under any number of names.
_MOST_ADDRESSES = 65_536


def make_pool(
    terms: Terms,
    wanted: tuple[IPv4Address, IPv4Address] | None,
    taken: Collection[IPv4Address],
) -> Pool:
    """Return the addresses for clients.

    Args:
        terms: The network, and addresses that are somebody's.
        wanted: The first and the last one; None: the whole network.
        taken: Other addresses that are not for clients.

    Raises:
        ConfigurationError: There are none, or they are of another network.
    """
    network = terms.own.network
    first, last = _hosts_of(network)
    if wanted is not None:
        if wanted[0] not in network or wanted[1] not in network:
            msg = (
                f"pool={wanted[0]}-{wanted[1]}: not in {network}, the network of "
                f"{terms.own}"
            )
            raise ConfigurationError(msg)
        first, last = max(first, wanted[0]), min(last, wanted[1])
    last = min(last, first + (_MOST_ADDRESSES - 1))
    without = {terms.own.ip, *taken, *terms.routers, *terms.dns}
    pool = Pool(first, last, frozenset(without))
    if next(iter(pool), None) is None:
        msg = f"pool: there is no address left for clients in {network}"
        raise ConfigurationError(msg)
    return pool


def check_reserved(terms: Terms, reserved: Mapping[bytes, IPv4Address]) -> None:
    """Check addresses that are for one client each.

    Raises:
        ConfigurationError: One is of another network, ours, or no host's.
    """
    first, last = _hosts_of(terms.own.network)
    for address in reserved.values():
        if not first <= address <= last or address == terms.own.ip:
            msg = f"reservations: {address} is no client's address with {terms.own}"
            raise ConfigurationError(msg)


def _hosts_of(network: IPv4Network) -> tuple[IPv4Address, IPv4Address]:
    """Return the first and the last address that a host can have."""
    if network.prefixlen < 31:
        return network[1], network[-2]
    return network[0], network[-1]


def check_number(what: str, value: int | None, least: int, most: int) -> int | None:
    """Return a number, or None.

    Raises:
        ConfigurationError: It is too small or too large, or no number.
    """
    if value is None:
        return None
    number: object = value
    if not isinstance(number, int) or not least <= number <= most:
        msg = f"{what}={value!r}: must be a number from {least} to {most}, or None"
        raise ConfigurationError(msg)
    return number


def check_addresses(what: str, value: object) -> tuple[IPv4Address, ...]:
    """Return one or several IPv4 addresses.

    Raises:
        ConfigurationError: One is none.
    """
    found = []
    for each in _hosts.listed(value):
        address = _hosts.check_address(what, each)
        if not isinstance(address, IPv4Address):
            msg = f"{what}: {address} is an IPv6 address, and this is DHCP for IPv4"
            raise ConfigurationError(msg)
        found.append(address)
    return tuple(found)


def parse_pool(pool: object) -> tuple[IPv4Address, IPv4Address]:
    """Return the first and the last address.

    Raises:
        ConfigurationError: It makes no sense.
    """
    try:
        if isinstance(pool, str) and "-" in pool:
            first, last = (IPv4Address(each.strip()) for each in pool.split("-"))
        else:
            network = pool if isinstance(pool, IPv4Network) else IPv4Network(str(pool))
            first, last = network[0], network[-1]
    except ValueError as error:
        msg = (
            f"pool={pool!r}: write two addresses, '10.0.0.100-10.0.0.199', or a "
            f"network, '10.0.0.128/25': {error}"
        )
        raise ConfigurationError(msg) from None
    if first > last:
        msg = f"pool={pool!r}: the lower address comes first"
        raise ConfigurationError(msg)
    return first, last


def parse_reservations(
    wanted: Mapping[str, str | IPv4Address],
) -> dict[bytes, IPv4Address]:
    """Return addresses by what tells clients from each other.

    Raises:
        ConfigurationError: One is no address, or is there twice.
    """
    found: dict[bytes, IPv4Address] = {}
    for client, value in wanted.items():
        [address] = check_addresses(f"reservations[{client!r}]", value)
        if address in found.values():
            msg = f"reservations: {address} is there twice"
            raise ConfigurationError(msg)
        try:
            keys = [b"\1" + packed_mac(parse_mac(client))]
        except ConfigurationError:
            # Text is of type 0 (RFC 2132 section 9.14); some leave the type out.
            keys = [b"\0" + client.encode(), client.encode()]
        found |= dict.fromkeys(keys, address)
    return found
