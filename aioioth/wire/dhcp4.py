"""DHCPv4 messages: the fixed part, and the options behind it.

What a network sends is taken apart here and not believed: a message that has no
structure is refused as a whole, and an option with a value that makes no sense is as
good as none.

Source: RFC 2131 section 2 (the fixed part) and RFC 951; RFC 2132 (options); RFC 3396
(long options, and where options go on: option 52); RFC 3397 (119), RFC 3442 (121),
RFC 4702 (81).
"""

from __future__ import annotations

import enum
import ipaddress
import struct
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, Self

from aioioth.wire.domains import pack_name, parse_name, parse_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from typing_extensions import Buffer

__all__ = [
    "BROADCAST",
    "CLIENT_PORT",
    "REPLY",
    "REQUEST",
    "SERVER_PORT",
    "ClientName",
    "Message",
    "MessageType",
    "Option",
    "pack_addresses",
    "pack_routes",
]

SERVER_PORT = 67
CLIENT_PORT = 68

REQUEST = 1
REPLY = 2
ETHERNET = 1
BROADCAST = 0x8000  # the only flag

_NOBODY = IPv4Address(0)

# op, htype, hlen, hops, xid, secs, flags, ciaddr, yiaddr, siaddr, giaddr, chaddr,
# sname, file; and the cookie that options begin with.
_FIXED = struct.Struct("!4BI2H4s4s4s4s16s64s128s")
_COOKIE = bytes([99, 130, 83, 99])
# BOOTP's messages are never shorter, and some servers and relays hold on to that.
_LEAST_BYTES = 300

_PAD, _END = 0, 255
_MOST_IN_ONE = 255


class MessageType(enum.IntEnum):
    """What a message says: option 53, RFC 2132 section 9.6."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7
    INFORM = 8


class Option(enum.IntEnum):
    """The options that somebody here asks for or answers."""

    NETMASK = 1
    ROUTERS = 3
    DNS = 6
    HOST_NAME = 12
    DOMAIN = 15
    MTU = 26
    REQUESTED_ADDRESS = 50
    LEASE_TIME = 51
    OVERLOAD = 52
    MESSAGE_TYPE = 53
    SERVER = 54
    PARAMETERS = 55
    MESSAGE = 56
    MAX_SIZE = 57
    RENEWAL_TIME = 58
    REBINDING_TIME = 59
    CLIENT_ID = 61
    CLIENT_NAME = 81
    DOMAIN_SEARCH = 119
    ROUTES = 121


@dataclass(frozen=True)
class ClientName:
    """The name that a client has or wants in the DNS: option 81, RFC 4702.

    Attributes:
        name: ``www.example.org``; without a dot it may be only a part, ``www``. Empty:
            the client does not say.
        server_adds: The server has the name lead to the address (the S bit).
        overridden: The server does not do what the client said (O).
        nobody_adds: The server tells the DNS nothing at all (N).
        encoded: As names are in the DNS, not as text (E).
    """

    name: str
    server_adds: bool = False
    overridden: bool = False
    nobody_adds: bool = False
    encoded: bool = True

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read an option's value.

        Raises:
            ValueError: It is none.
        """
        if len(data) < 3:
            msg = f"a client's name of {len(data)} bytes has not even its flags"
            raise ValueError(msg)
        flags, name = data[0], data[3:]
        encoded = bool(flags & 4)
        return cls(
            parse_name(name) if encoded else _plain_name(name),
            server_adds=bool(flags & 1),
            overridden=bool(flags & 2),
            nobody_adds=bool(flags & 8),
            encoded=encoded,
        )

    def pack(self, *, code: int = 0) -> bytes:
        """Return the option's value.

        Args:
            code: For both of the fields that nobody reads any more: 0 from clients,
                255 from servers.

        Raises:
            ValueError: The name is none.
        """
        flags = self.server_adds | self.overridden << 1
        flags |= self.encoded << 2 | self.nobody_adds << 3
        name = b""
        if self.name:
            packed = pack_name(self.name, ended="." in self.name)
            name = packed if self.encoded else self.name.encode()
        return bytes([flags, code, code]) + name


@dataclass(frozen=True)
class Message:
    """A DHCPv4 message.

    Attributes:
        op: `REQUEST` from clients, `REPLY` from servers.
        xid: Chosen by the client; the answer to it has the same. 32 bits.
        mac: The client's hardware address, up to 16 bytes; 6 for Ethernet.
        options: Values by number. A value that came in pieces is one again; the values
            of an option that was there several times are behind each other.
        hardware: Which kind of address `mac` is; 1 for Ethernet.
        secs: Seconds since the client began.
        flags: `BROADCAST`, or 0: the client can take packets that are sent to it alone.
        client: The client's address, if it has one already.
        yours: The address that the client gets.
        next_server: Who has the file to boot from.
        relay: Who handed the message on.
    """

    op: int
    xid: int
    mac: bytes
    options: Mapping[int, bytes] = field(default_factory=dict)
    hardware: int = ETHERNET
    secs: int = 0
    flags: int = 0
    client: IPv4Address = _NOBODY
    yours: IPv4Address = _NOBODY
    next_server: IPv4Address = _NOBODY
    relay: IPv4Address = _NOBODY

    @classmethod
    def parse(cls, data: Buffer) -> Self:
        """Read a message, as it is in a UDP datagram.

        Raises:
            ValueError: It has no structure: it is too short, has no options, or one
                of them is cut off.
        """
        packed = bytes(data)
        if len(packed) < _FIXED.size + len(_COOKIE):
            msg = f"{len(packed)} bytes are no DHCP message: 240 are the least"
            raise ValueError(msg)
        op, hardware, size, _, xid, secs, flags, *rest = _FIXED.unpack_from(packed)
        *addresses, mac, server_name, file = rest
        if packed[_FIXED.size :][: len(_COOKIE)] != _COOKIE:
            msg = "a BOOTP message without options, not one of DHCP"
            raise ValueError(msg)
        if size > len(mac):
            msg = f"a hardware address of {size} bytes has no room in a DHCP message"
            raise ValueError(msg)
        options = _options(packed[_FIXED.size + len(_COOKIE) :], file, server_name)
        client, yours, next_server, relay = map(IPv4Address, addresses)
        return cls(
            op,
            xid,
            mac[:size],
            options,
            hardware,
            secs,
            flags,
            client,
            yours,
            next_server,
            relay,
        )

    def pack(self) -> bytes:
        """Return the message's bytes, 300 or more."""
        fixed = _FIXED.pack(
            self.op,
            self.hardware,
            len(self.mac),
            0,
            self.xid,
            min(self.secs, 0xFFFF),
            self.flags,
            self.client.packed,
            self.yours.packed,
            self.next_server.packed,
            self.relay.packed,
            self.mac,
            b"",
            b"",
        )
        options = b"".join(_pieces(*each) for each in self.options.items())
        packed = fixed + _COOKIE + options + bytes([_END])
        return packed.ljust(_LEAST_BYTES, b"\0")

    # What single options say; None, or nothing, if they are not there or make no sense

    @property
    def type(self) -> MessageType | None:
        """What the message says."""
        try:
            return MessageType(self.number(Option.MESSAGE_TYPE, 1) or 0)
        except ValueError:
            return None

    def number(self, option: int, size: int) -> int | None:
        """Return a number of ``size`` bytes."""
        value = self.options.get(option, b"")
        return int.from_bytes(value, "big") if len(value) == size else None

    def addresses(self, option: int) -> tuple[IPv4Address, ...]:
        """Return IPv4 addresses."""
        value = self.options.get(option, b"")
        if len(value) % 4:
            return ()
        return tuple(IPv4Address(value[at : at + 4]) for at in range(0, len(value), 4))

    def address(self, option: int) -> IPv4Address | None:
        """Return the only address."""
        found = self.addresses(option)
        return found[0] if len(found) == 1 else None

    @property
    def prefix_length(self) -> int | None:
        """How many bits of the addresses are the network's."""
        mask = self.address(Option.NETMASK)
        if mask is None:
            return None
        hosts = ~int(mask) & 0xFFFFFFFF
        return None if hosts & (hosts + 1) else 32 - hosts.bit_length()

    @property
    def domains(self) -> tuple[str, ...]:
        """Where names are searched; the one domain if there is no list of them."""
        search = self.options.get(Option.DOMAIN_SEARCH)
        try:
            if search is not None and (found := parse_names(search, compressed=True)):
                return tuple(dict.fromkeys(each.lower() for each in found))
            name = _plain_name(self.options.get(Option.DOMAIN, b""))
        except ValueError:
            return ()
        return (name.lower(),) if name else ()

    @property
    def routes(self) -> tuple[tuple[IPv4Network, IPv4Address], ...]:
        """Routes, each a network and its router; 0.0.0.0: it is on the link."""
        try:
            return tuple(_parse_routes(self.options.get(Option.ROUTES, b"")))
        except ValueError:
            return ()

    @property
    def host_name(self) -> str | None:
        """The client's name, with or without a domain."""
        try:
            return _plain_name(self.options.get(Option.HOST_NAME, b"")) or None
        except ValueError:
            return None

    @property
    def client_name(self) -> ClientName | None:
        """The client's name in the DNS."""
        value = self.options.get(Option.CLIENT_NAME)
        try:
            return None if value is None else ClientName.parse(value)
        except ValueError:
            return None

    @property
    def text(self) -> str:
        """What went wrong, in words for people."""
        words = self.options.get(Option.MESSAGE, b"").decode("ascii", "replace")
        return "".join(char if char.isprintable() else "?" for char in words)


def pack_addresses(addresses: Iterable[IPv4Address]) -> bytes:
    """Return an option's value that is a list of addresses."""
    return b"".join(each.packed for each in addresses)


def pack_routes(routes: Iterable[tuple[IPv4Network, IPv4Address]]) -> bytes:
    """Return option 121: networks and their routers, 0.0.0.0 for one on the link."""
    packed = b""
    for network, router in routes:
        length = network.prefixlen
        significant = network.network_address.packed[: (length + 7) // 8]
        packed += bytes([length]) + significant + router.packed
    return packed


def _parse_routes(value: bytes) -> Iterable[tuple[IPv4Network, IPv4Address]]:
    at = 0
    while at < len(value):
        length = value[at]
        significant = (length + 7) // 8
        end = at + 1 + significant + 4
        if length > 32 or end > len(value):
            msg = "a route is cut off, or has more than 32 bits"
            raise ValueError(msg)
        network = value[at + 1 : at + 1 + significant].ljust(4, b"\0")
        # Bits behind the prefix's are none of its own (RFC 3442: a client clears them).
        yield (
            ipaddress.IPv4Network((network, length), strict=False),
            IPv4Address(value[end - 4 : end]),
        )
        at = end


def _plain_name(value: bytes) -> str:
    """Return a name that is a text; some end it with a zero byte, as in C."""
    name = value.rstrip(b"\0").decode("ascii").removesuffix(".")
    if name:
        pack_name(name)  # raises ValueError if it is none
    return name


def _pieces(option: int, value: bytes) -> bytes:
    if not value:
        return bytes([option, 0])
    packed = b""
    for at in range(0, len(value), _MOST_IN_ONE):
        piece = value[at : at + _MOST_IN_ONE]
        packed += bytes([option, len(piece)]) + piece
    return packed


def _options(data: bytes, file: bytes, server_name: bytes) -> dict[int, bytes]:
    """Return all options, in the order of RFC 3396 section 5: with their pieces."""
    found: dict[int, list[bytes]] = {}
    _collect(data, found)
    overload = b"".join(found.get(Option.OVERLOAD, ()))
    if overload in {b"\1", b"\3"}:
        _collect(file, found)
    if overload in {b"\2", b"\3"}:
        _collect(server_name, found)
    return {option: b"".join(pieces) for option, pieces in found.items()}


def _collect(data: bytes, found: dict[int, list[bytes]]) -> None:
    at = 0
    while at < len(data) and data[at] != _END:
        option = data[at]
        at += 1
        if option == _PAD:
            continue
        # Some leave out the end's mark; nobody may leave out a part of an option.
        size = data[at] if at < len(data) else len(data)
        at += 1
        if at + size > len(data):
            msg = f"DHCP option {option} is cut off"
            raise ValueError(msg)
        found.setdefault(option, []).append(data[at : at + size])
        at += size
