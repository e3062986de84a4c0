"""Options of DHCPv6 that have a form of their own: addresses, prefixes, statuses.

Source: RFC 8415 section 21.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = [
    "Association",
    "LeasedAddress",
    "LeasedPrefix",
    "Option",
    "Status",
    "StatusCode",
    "option",
    "options",
    "pack_association",
    "pack_status",
    "parse_association",
    "parse_status",
]

_OPTION = struct.Struct("!HH")
_ASSOCIATION = struct.Struct("!III")  # IAID, T1, T2
_ADDRESS = struct.Struct("!16sII")  # preferred, valid
_PREFIX = struct.Struct("!IIB16s")
_CODE = struct.Struct("!H")

_FOREVER = 0xFFFF_FFFF


class Option(enum.IntEnum):
    """Codes of the options that are known here."""

    CLIENT_ID = 1
    SERVER_ID = 2
    IA_NA = 3
    ADDRESS = 5
    REQUESTED = 6
    PREFERENCE = 7
    ELAPSED = 8
    STATUS = 13
    RAPID_COMMIT = 14
    DNS = 23
    DOMAINS = 24
    IA_PD = 25
    PREFIX = 26
    REFRESH = 32
    FQDN = 39
    SOL_MAX_RT = 82
    INF_MAX_RT = 83


class StatusCode(enum.IntEnum):
    """What servers say of what was asked for."""

    SUCCESS = 0
    UNSPEC_FAIL = 1
    NO_ADDRS_AVAIL = 2
    NO_BINDING = 3
    NOT_ON_LINK = 4
    USE_MULTICAST = 5
    NO_PREFIX_AVAIL = 6


@dataclass(frozen=True)
class Status:
    """How it went; not being there means success.

    Attributes:
        code: A `StatusCode`, or a number that is none.
        text: For people.
    """

    code: int
    text: str = ""


@dataclass(frozen=True)
class LeasedAddress:
    """An address of an `Association`.

    Attributes:
        address: The address.
        preferred: Seconds; None for ever.
        valid: Seconds; None for ever.
    """

    address: IPv6Address
    preferred: int | None = 0
    valid: int | None = 0


@dataclass(frozen=True)
class LeasedPrefix:
    """A prefix of an `Association`.

    Attributes:
        prefix: The network; ``::/LENGTH`` if just the length matters.
        preferred: Seconds; None for ever.
        valid: Seconds; None for ever.
    """

    prefix: IPv6Network
    preferred: int | None = 0
    valid: int | None = 0


@dataclass(frozen=True)
class Association:
    """What belongs to one interface: option IA_NA, or IA_PD for prefixes.

    Attributes:
        iaid: The client's number for it, 32 bits.
        prefixes: Whether prefixes are meant, not addresses.
        t1: Seconds until the server is asked again; 0 for "you choose", None for never.
        t2: Seconds until any server is asked.
        leased: Addresses, or prefixes.
        status: How it went with all of them.
    """

    iaid: int
    prefixes: bool = False
    t1: int | None = 0
    t2: int | None = 0
    leased: tuple[LeasedAddress | LeasedPrefix, ...] = ()
    status: Status | None = None

    @property
    def code(self) -> int:
        """The status, as a number."""
        return StatusCode.SUCCESS if self.status is None else self.status.code


def option(code: int, data: bytes) -> bytes:
    """Return an option's bytes."""
    return _OPTION.pack(code, len(data)) + data


def options(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield code and contents of each option.

    Raises:
        ValueError: One is cut off.
    """
    at = 0
    while at < len(data):
        if at + _OPTION.size > len(data):
            msg = f"{len(data) - at} bytes behind the last DHCPv6 option"
            raise ValueError(msg)
        code, length = _OPTION.unpack_from(data, at)
        at += _OPTION.size
        if at + length > len(data):
            msg = f"DHCPv6 option {code} is cut off: {len(data) - at} of {length} bytes"
            raise ValueError(msg)
        yield code, data[at : at + length]
        at += length


def parse_status(data: bytes) -> Status:
    """Read a status.

    Raises:
        ValueError: It is cut off.
    """
    if len(data) < _CODE.size:
        msg = f"DHCPv6 option {Option.STATUS} has {len(data)} bytes"
        raise ValueError(msg)
    return Status(_CODE.unpack_from(data)[0], data[2:].decode("utf-8", "replace"))


def pack_status(status: Status) -> bytes:
    """Return a status's bytes."""
    return _CODE.pack(status.code) + status.text.encode("utf-8", "replace")


def _seconds(number: int) -> int | None:
    return None if number == _FOREVER else number


def _wire_seconds(seconds: int | None) -> int:
    # The longest there is besides "for ever" is 136 years.
    return _FOREVER if seconds is None else min(seconds, _FOREVER - 1)


def parse_association(code: int, data: bytes) -> Association:
    """Read an IA_NA or IA_PD, as ``code`` says.

    Raises:
        ValueError: It makes no sense.
    """
    if len(data) < _ASSOCIATION.size:
        msg = f"DHCPv6 option {code} has {len(data)} bytes"
        raise ValueError(msg)
    iaid, t1, t2 = _ASSOCIATION.unpack_from(data)
    status: Status | None = None
    leased: list[LeasedAddress | LeasedPrefix] = []
    parse = _parse_prefix if code == Option.IA_PD else _parse_address
    inner = Option.PREFIX if code == Option.IA_PD else Option.ADDRESS
    for number, body in options(data[_ASSOCIATION.size :]):
        if number == inner:
            leased += parse(body)
        elif number == Option.STATUS and status is None:
            status = parse_status(body)
    return Association(
        iaid, code == Option.IA_PD, _seconds(t1), _seconds(t2), tuple(leased), status
    )


def pack_association(association: Association) -> bytes:
    """Return its bytes; `Association.prefixes` says as which option."""
    times = (_wire_seconds(association.t1), _wire_seconds(association.t2))
    packed = _ASSOCIATION.pack(association.iaid, *times)
    for each in association.leased:
        times = (_wire_seconds(each.preferred), _wire_seconds(each.valid))
        if isinstance(each, LeasedAddress):
            body = _ADDRESS.pack(each.address.packed, *times)
            packed += option(Option.ADDRESS, body)
        else:
            prefix = each.prefix
            network = prefix.network_address.packed
            body = _PREFIX.pack(*times, prefix.prefixlen, network)
            packed += option(Option.PREFIX, body)
    if association.status is not None:
        packed += option(Option.STATUS, pack_status(association.status))
    return packed


def _parse_address(data: bytes) -> Iterable[LeasedAddress]:
    """Return the address, or nothing if its own status says that it is none."""
    if len(data) < _ADDRESS.size:
        msg = f"DHCPv6 option {Option.ADDRESS} has {len(data)} bytes"
        raise ValueError(msg)
    packed, preferred, valid = _ADDRESS.unpack_from(data)
    if _failed(data[_ADDRESS.size :]):
        return ()
    address = IPv6Address(packed)
    return (LeasedAddress(address, _seconds(preferred), _seconds(valid)),)


def _parse_prefix(data: bytes) -> Iterable[LeasedPrefix]:
    if len(data) < _PREFIX.size:
        msg = f"DHCPv6 option {Option.PREFIX} has {len(data)} bytes"
        raise ValueError(msg)
    preferred, valid, length, packed = _PREFIX.unpack_from(data)
    # Raises ValueError for a length that none has. Bits behind it do not count.
    prefix = IPv6Network((packed, length), strict=False)
    if _failed(data[_PREFIX.size :]):
        return ()
    return (LeasedPrefix(prefix, _seconds(preferred), _seconds(valid)),)


def _failed(inner: bytes) -> bool:
    return any(
        parse_status(body).code != StatusCode.SUCCESS
        for code, body in options(inner)
        if code == Option.STATUS
    )
