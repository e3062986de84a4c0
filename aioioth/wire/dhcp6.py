"""DHCPv6 messages between clients and servers.

What relays put around them, and what Reconfigure needs, is left out: `Message.parse`
takes neither.

Source: RFC 8415 sections 8, 11 and 21; RFC 3646 (DNS); RFC 4704 (client's name).
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, replace
from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Final

from aioioth.wire.dhcp6options import (
    Association,
    LeasedAddress,
    LeasedPrefix,
    Option,
    Status,
    StatusCode,
    option,
    options,
    pack_association,
    pack_status,
    parse_association,
    parse_status,
)
from aioioth.wire.domains import pack_name, pack_names, parse_name, parse_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "CLIENT_PORT",
    "SERVERS",
    "SERVER_PORT",
    "Association",
    "Fqdn",
    "Kind",
    "LeasedAddress",
    "LeasedPrefix",
    "Message",
    "Option",
    "Status",
    "StatusCode",
    "duid_of",
    "mac_in",
]

CLIENT_PORT: Final = 546
SERVER_PORT: Final = 547
SERVERS: Final = IPv6Address("ff02::1:2")
"""All servers and relays of a network."""

_HEADER = struct.Struct("!I")  # type, and 24 bits of transaction ID
_SHORT = struct.Struct("!H")
_LONG = struct.Struct("!I")

_DUID_BYTES = range(3, 131)
_ETHERNET = 1  # IANA's hardware types
_DUID_LLT, _DUID_LL = 1, 3


class Kind(enum.IntEnum):
    """Types of messages."""

    SOLICIT = 1
    ADVERTISE = 2
    REQUEST = 3
    CONFIRM = 4
    RENEW = 5
    REBIND = 6
    REPLY = 7
    RELEASE = 8
    DECLINE = 9
    RECONFIGURE = 10
    INFORMATION_REQUEST = 11


@dataclass(frozen=True)
class Fqdn:
    """A client's name, and who tells the DNS.

    Attributes:
        name: Fully qualified; or one label, to which the server knows the rest.
        flags: 1: the server shall tell; 2: it does though we said no; 4: nobody shall.
    """

    name: str
    flags: int = 1


@dataclass(frozen=True)
class Message:
    """A message, without what is not known here.

    Attributes:
        kind: What is wanted or said.
        transaction: 24 bits that the client made up.
        client_id: DUID, 3 to 130 bytes.
        server_id: Likewise.
        associations: Addresses and prefixes.
        requested: Options that the client would like to have.
        preference: Of an advertisement; the highest of 0 to 255 wins.
        elapsed: Hundredths of a second that the client has tried.
        status: How it went.
        rapid_commit: Whether two messages shall do, or did.
        dns: Addresses of DNS servers; None: not said.
        domains: Where to search names; None: not said.
        refresh: Seconds until the information is to be asked for again.
        fqdn: The client's name.
        sol_max_rt: Seconds between two Solicits, at most; None: not said.
        inf_max_rt: Likewise for Information-Request.
    """

    kind: Kind
    transaction: int
    client_id: bytes | None = None
    server_id: bytes | None = None
    associations: tuple[Association, ...] = ()
    requested: tuple[int, ...] = ()
    preference: int | None = None
    elapsed: int | None = None
    status: Status | None = None
    rapid_commit: bool = False
    dns: tuple[IPv6Address, ...] | None = None
    domains: tuple[str, ...] | None = None
    refresh: int | None = None
    fqdn: Fqdn | None = None
    sol_max_rt: int | None = None
    inf_max_rt: int | None = None

    @property
    def code(self) -> int:
        """The status, as a number."""
        return StatusCode.SUCCESS if self.status is None else self.status.code

    def pack(self) -> bytes:
        """Return the message's bytes.

        Raises:
            ValueError: A name is no DNS name.
        """
        parts = [_HEADER.pack(self.kind << 24 | self.transaction)]
        parts += [option(code, data) for code, data in _packed_options(self)]
        return b"".join(parts)

    @classmethod
    def parse(cls, data: bytes) -> Message:
        """Read a message.

        Of options that may be there once, the first one counts. Names that are none
        are as if they were not there.

        Raises:
            ValueError: It is cut off, of another type, or an option makes no sense.
        """
        if len(data) < _HEADER.size:
            msg = f"a DHCPv6 message of {len(data)} bytes"
            raise ValueError(msg)
        [first] = _HEADER.unpack_from(data)
        fields: dict[str, object] = {}
        associations: list[Association] = []
        for code, body in options(data[_HEADER.size :]):
            if code in {Option.IA_NA, Option.IA_PD}:
                associations.append(parse_association(code, body))
            elif code in _FIELDS:
                name, parse, _ = _FIELDS[code]
                value = parse(body)
                if value is not None:
                    fields.setdefault(name, value)
        message = cls(Kind(first >> 24), first & 0xFF_FFFF, None, None)
        # A field's value is of its type: that is what its parser returns.
        return replace(message, associations=tuple(associations), **fields)  # type: ignore[arg-type]


def duid_of(mac: bytes) -> bytes:
    """Return the DUID that is made of a MAC address and nothing else (DUID-LL)."""
    return struct.pack("!HH", _DUID_LL, _ETHERNET) + mac


def mac_in(duid: bytes) -> bytes | None:
    """Return the MAC address that a DUID was made of; None if of something else."""
    kind, hardware = duid[:2], duid[2:4]
    if hardware != _SHORT.pack(_ETHERNET):
        return None
    if kind == _SHORT.pack(_DUID_LL) and len(duid) == 10:
        return duid[4:]
    if kind == _SHORT.pack(_DUID_LLT) and len(duid) == 14:
        return duid[8:]
    return None


# Options


def _packed_options(message: Message) -> Iterator[tuple[int, bytes]]:
    for code, (name, _, pack) in _FIELDS.items():
        value = getattr(message, name)
        if value is None or (name in {"requested", "rapid_commit"} and not value):
            continue
        yield code, pack(value)
    for each in message.associations:
        yield Option.IA_PD if each.prefixes else Option.IA_NA, pack_association(each)


def _exactly(code: int, data: bytes, size: int) -> bytes:
    if len(data) != size:
        msg = f"DHCPv6 option {code} has {len(data)} bytes instead of {size}"
        raise ValueError(msg)
    return data


def _several(code: int, data: bytes, size: int) -> Iterator[bytes]:
    if len(data) % size:
        msg = f"DHCPv6 option {code} has {len(data)} bytes, no multiple of {size}"
        raise ValueError(msg)
    return (data[at : at + size] for at in range(0, len(data), size))


def _parse_duid(data: bytes) -> bytes:
    if len(data) not in _DUID_BYTES:
        msg = f"a DUID of {len(data)} bytes"
        raise ValueError(msg)
    return data


def _parse_fqdn(data: bytes) -> Fqdn | None:
    try:
        return Fqdn(parse_name(data[1:]), data[0])
    except (ValueError, IndexError):
        return None


def _pack_fqdn(fqdn: Fqdn) -> bytes:
    if not fqdn.name:
        return bytes([fqdn.flags])
    return bytes([fqdn.flags]) + pack_name(fqdn.name, ended="." in fqdn.name)


def _parse_domains(data: bytes) -> tuple[str, ...] | None:
    try:
        return parse_names(data)
    except ValueError:
        return None


def _parse_dns(data: bytes) -> tuple[IPv6Address, ...]:
    return tuple(map(IPv6Address, _several(Option.DNS, data, 16)))


def _parse_requested(data: bytes) -> tuple[int, ...]:
    each = _several(Option.REQUESTED, data, 2)
    return tuple(int.from_bytes(number, "big") for number in each)


def _number(
    option: Option, form: struct.Struct
) -> tuple[Callable[[bytes], object], Callable[..., bytes]]:
    """Return what reads and what writes an option that is one number."""

    def parse(data: bytes) -> object:
        return form.unpack(_exactly(option, data, form.size))[0]

    return parse, form.pack


# Name of the field, what reads it, and what writes it.
_FIELDS: Final[
    dict[int, tuple[str, Callable[[bytes], object], Callable[..., bytes]]]
] = {
    Option.CLIENT_ID: ("client_id", _parse_duid, bytes),
    Option.SERVER_ID: ("server_id", _parse_duid, bytes),
    Option.REQUESTED: (
        "requested",
        _parse_requested,
        lambda codes: b"".join(map(_SHORT.pack, codes)),
    ),
    Option.PREFERENCE: (
        "preference",
        *_number(Option.PREFERENCE, struct.Struct("!B")),
    ),
    Option.ELAPSED: ("elapsed", *_number(Option.ELAPSED, _SHORT)),
    Option.STATUS: ("status", parse_status, pack_status),
    Option.RAPID_COMMIT: ("rapid_commit", lambda _: True, lambda _: b""),
    Option.DNS: (
        "dns",
        _parse_dns,
        lambda dns: b"".join(each.packed for each in dns),
    ),
    Option.DOMAINS: ("domains", _parse_domains, pack_names),
    Option.REFRESH: ("refresh", *_number(Option.REFRESH, _LONG)),
    Option.FQDN: ("fqdn", _parse_fqdn, _pack_fqdn),
    Option.SOL_MAX_RT: ("sol_max_rt", *_number(Option.SOL_MAX_RT, _LONG)),
    Option.INF_MAX_RT: ("inf_max_rt", *_number(Option.INF_MAX_RT, _LONG)),
}
