"""What a DHCPv6 server is told to do, checked."""

from __future__ import annotations

import math
from ipaddress import IPv6Address, IPv6Network
from typing import TYPE_CHECKING, TypeVar

from aioioth._hosts import listed
from aioioth._ip import parse_address, parse_mac, parse_network
from aioioth.errors import ConfigurationError
from aioioth.servers._dhcp6_bindings import Pool
from aioioth.wire.ethernet import packed_mac

if TYPE_CHECKING:
    from collections.abc import Mapping

_T = TypeVar("_T")

_MOST_SECONDS = 0xFFFF_FFFE
# Of each kind; with names of 255 bytes, a datagram takes four times as many.
_MOST_TOLD = 64
_MAC_BYTES = 6
_DUID_BYTES = range(3, 131)


def parse_pool(pool: object) -> Pool:
    """Return the addresses that may be given.

    Raises:
        ConfigurationError: It is neither a network nor ``FIRST-LAST``, or not for
            hosts.
    """
    if isinstance(pool, str) and "-" in pool:
        first, last = (check_host("pool", part) for part in pool.split("-", 1))
        if first > last:
            msg = f"pool={pool!r}: the first address comes behind the last one"
            raise ConfigurationError(msg)
        return Pool.between(first, last)
    network = parse_network("pool", pool)
    if not isinstance(network, IPv6Network):
        msg = f"pool={pool!r}: not of IPv6; write one like 'fd00::100-fd00::1ff'"
        raise ConfigurationError(msg)
    whole = Pool.inside(network)
    check_host("pool", whole.first)
    check_host("pool", network[-1])
    return whole


def parse_prefixes(network: str | IPv6Network | None, length: int) -> Pool | None:
    """Return the prefixes that may be given.

    Raises:
        ConfigurationError: It is no network, or has no parts of that length.
    """
    if network is None:
        return None
    whole = parse_network("prefixes", network)
    lengths = range(whole.prefixlen, 128)
    if not isinstance(whole, IPv6Network) or length not in lengths:
        msg = (
            f"prefixes={str(network)!r} with delegated_length={length}: expected an "
            f"IPv6 network, and a length from its own to 127"
        )
        raise ConfigurationError(msg)
    return Pool.inside(whole, length)


def parse_reservations(
    reservations: Mapping[str, str | IPv6Address],
) -> dict[bytes, IPv6Address]:
    """Return which client gets which address: by MAC address, or by DUID.

    Raises:
        ConfigurationError: A client or an address makes no sense, or comes twice.
    """
    found: dict[bytes, IPv6Address] = {}
    for client, address in reservations.items():
        key = _client(client)
        wanted = check_host(f"reservations[{client!r}]", address)
        if key in found or wanted in found.values():
            msg = f"reservations[{client!r}]: the client or {wanted} comes twice"
            raise ConfigurationError(msg)
        found[key] = wanted
    return found


def check_lifetimes(
    valid: float | None, preferred: float | None
) -> tuple[int | None, int | None]:
    """Return both in whole seconds; None for ever.

    Raises:
        ConfigurationError: They are too short or too long, or in the wrong order.
    """
    whole = _seconds("lease_time", valid)
    if preferred is None:
        return whole, whole
    less = _seconds("preferred", preferred)
    assert less is not None
    if whole is not None and less > whole:
        msg = f"preferred={preferred}: not longer than lease_time={valid}"
        raise ConfigurationError(msg)
    return whole, less


def check_address(keyword: str, value: object) -> IPv6Address:
    """Return an IPv6 address.

    Raises:
        ConfigurationError: It is none.
    """
    address = parse_address(keyword, value)
    if not isinstance(address, IPv6Address):
        msg = f"{keyword}: {value} is not of IPv6; write one like 'fd00::5'"
        raise ConfigurationError(msg)
    return address


def check_host(keyword: str, value: object) -> IPv6Address:
    """Return an IPv6 address that a client can have.

    Raises:
        ConfigurationError: It is none.
    """
    host = check_address(keyword, value)
    if host.is_multicast or host.is_link_local or int(host) < 2:
        msg = f"{keyword}: {host} cannot be a client's; write one like 'fd00::5'"
        raise ConfigurationError(msg)
    return host


def check_addresses(keyword: str, value: object) -> tuple[IPv6Address, ...]:
    """Return one IPv6 address, or several.

    Raises:
        ConfigurationError: One is none, or there are too many.
    """
    return check_number_of(
        keyword, tuple(check_address(keyword, each) for each in listed(value))
    )


def check_number_of(keyword: str, things: tuple[_T, ...]) -> tuple[_T, ...]:
    """Return what clients are told, if it is not too much for a message.

    Raises:
        ConfigurationError: It is.
    """
    if len(things) > _MOST_TOLD:
        msg = f"{keyword}: {len(things)} are too many for clients; at most {_MOST_TOLD}"
        raise ConfigurationError(msg)
    return things


def _seconds(keyword: str, value: float | None) -> int | None:
    if value is None:
        return None
    number: object = value
    # Also NaN: it is never in a range.
    if not isinstance(number, int | float) or not 1 <= number <= _MOST_SECONDS:
        msg = (
            f"{keyword}={value!r}: from 1 to {_MOST_SECONDS} seconds, or None for ever"
        )
        raise ConfigurationError(msg)
    return math.ceil(value)


def _client(text: str) -> bytes:
    digits = text.replace(":", "").replace("-", "")
    try:
        raw = bytes.fromhex(digits)
    except ValueError:
        raw = b""
    if len(raw) == _MAC_BYTES:
        return packed_mac(parse_mac(text)) if text != digits else raw
    if len(raw) not in _DUID_BYTES:
        msg = (
            f"reservations[{text!r}]: expected a MAC address like '02:00:00:00:00:01', "
            f"or a DUID in hexadecimal digits"
        )
        raise ConfigurationError(msg)
    return raw
