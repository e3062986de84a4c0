"""Addresses and MAC addresses that are made of names.

Whoever knows a host's name knows its address: the name's MD5 sum is the host part of
the IPv6 address, and the MAC address too, if that is wanted. So nothing has to be given
out or looked up, and a host has the same address in each of its lives. With a password
and the time in it, the address is good for a while only, and for those who know the
password: `aioioth.otip`. The algorithm is VirtualSquare's; libioth, iothconf, iothnamed
and otip-utils come to the same addresses.

MD5 keeps no secret of a name that can be guessed, and nobody should think that it does;
it is what the addresses of all the others are made with.

Source: the hash addresses of libioth's ``iothaddr.c``; RFC 4291 appendix A.
"""

from __future__ import annotations

import hashlib
import ipaddress
import math

from aioioth._ip import parse_mac
from aioioth.errors import ConfigurationError
from aioioth.wire.ethernet import packed_mac

__all__ = [
    "DEFAULT_PERIOD",
    "eui64_address",
    "hash_address",
    "hash_mac",
    "otip_time",
]

DEFAULT_PERIOD = 32
"""Seconds that a one-time address is good for, unless something else was agreed."""

Base = str | ipaddress.IPv6Address | ipaddress.IPv6Interface | ipaddress.IPv6Network


def hash_address(
    name: str, base: Base = "::", *, password: str | bytes = "", time: int = 0
) -> ipaddress.IPv6Address:
    """Return the address that a name has in a network.

    Args:
        name: Of a host; a dot at its end does not count. Letters are taken as they are:
            ``A.lab`` is not ``a.lab``.
        base: The network, or its address: ``fd00::/64`` or ``fd00::``. What it has in
            the lower 64 bits is XORed with the name's.
        password: Without it nobody can know the address; none if empty.
        time: What `otip_time` says; 0 for an address that stays.

    Raises:
        ConfigurationError: ``base`` is no IPv6 address or network, the name is empty,
            or the time has more than 32 bits.
    """
    digest = _digest(name, password, time)
    packed = bytearray(_base(base).packed)
    for i in range(8):
        packed[8 + i] ^= digest[i]
    # The two bits that say, in an address made of a MAC address, that it is global,
    # and a group's.
    packed[8] &= 0xFC
    return ipaddress.IPv6Address(bytes(packed))


def hash_mac(name: str, *, password: str | bytes = "", time: int = 0) -> str:
    """Return the MAC address that a name has, as ``02:00:00:00:00:01``.

    It is one station's, and locally administered. Arguments are those of
    `hash_address`.

    Raises:
        ConfigurationError: See `hash_address`.
    """
    digest = _digest(name, password, time)
    mac = bytearray(digest[0:3] + digest[5:8])
    mac[0] = mac[0] & 0xFE | 0x02
    return mac.hex(":")


def eui64_address(mac: str | bytes, base: Base = "fe80::") -> ipaddress.IPv6Address:
    """Return the address that a MAC address makes in a network.

    With an empty host part in ``base`` it is what the kernel itself makes (modified
    EUI-64).

    Args:
        mac: As ``02:00:00:00:00:01``, or its six bytes.
        base: The network, or its address, as for `hash_address`; what it has in the
            lowest 24 bits is XORed with those of the MAC address.

    Raises:
        ConfigurationError: One of them is none.
    """
    if isinstance(mac, bytes):
        if len(mac) != 6:
            msg = f"mac={mac!r}: expected six bytes"
            raise ConfigurationError(msg)
        station = mac
    else:
        station = packed_mac(parse_mac(mac))
    packed = bytearray(_base(base).packed)
    packed[8:13] = station[0:3] + b"\xff\xfe"
    packed[8] ^= 0x02
    for i in range(3):
        packed[13 + i] ^= station[3 + i]
    return ipaddress.IPv6Address(bytes(packed))


def otip_time(now: float, *, period: int = DEFAULT_PERIOD, offset: int = 0) -> int:
    """Return the number of the period that a moment is in.

    Args:
        now: Seconds since 1970, as `time.time` gives them.
        period: Its length in seconds; 0: time does not matter, and the answer is 0.
        offset: Seconds that everything happens earlier.

    Returns:
        A number of 32 bits; after the largest one, in thousands of years, comes 0.

    Raises:
        ConfigurationError: The period is negative.
    """
    if period < 0:
        msg = f"period={period}: must be a number of seconds, 0 for no rotation"
        raise ConfigurationError(msg)
    if period == 0:
        return 0
    return (math.floor(now) + offset) // period & 0xFFFFFFFF


def _digest(name: str, password: str | bytes, time: int) -> bytes:
    try:
        hashed = name.removesuffix(".").encode()
        if isinstance(password, str):
            password = password.encode()
    except UnicodeEncodeError as error:
        msg = f"name {name!r} or its password is no text: {error}"
        raise ConfigurationError(msg) from None
    if not hashed:
        msg = f"name {name!r}: an address needs a name to be made of"
        raise ConfigurationError(msg)
    hashed += password
    if not 0 <= time <= 0xFFFFFFFF:
        msg = f"time={time}: must have 32 bits, as otip_time() has"
        raise ConfigurationError(msg)
    if time:
        hashed += time.to_bytes(4, "big")
    # It protects nothing here, and hosts that forbid MD5 for that shall run this too.
    return hashlib.md5(hashed, usedforsecurity=False).digest()


def _base(base: Base) -> ipaddress.IPv6Address:
    if isinstance(base, ipaddress.IPv6Network):
        return base.network_address
    try:
        # A scope (%vde0) is no part of what is hashed.
        return ipaddress.IPv6Address(int(ipaddress.IPv6Interface(base).ip))
    except ValueError as error:
        msg = f"base {str(base)!r} is no IPv6 address or network: {error}"
        raise ConfigurationError(msg) from None
