"""Ethernet frames, and one line about what is in them.

Source: RFC 894 (frames), RFC 826 (ARP), RFC 791, RFC 8200, RFC 9293 (TCP), RFC 768,
RFC 792, RFC 4443, RFC 4861; EtherTypes from IANA's ieee-802-numbers registry.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

__all__ = ["EthernetHeader", "Summary", "packed_mac", "summarize"]

_HEADER = struct.Struct("!6s6sH")
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_TCP = struct.Struct("!HHIIBBH")

_TCP_FLAGS = ((0x02, "SYN"), (0x01, "FIN"), (0x04, "RST"), (0x08, "PSH"), (0x10, "ACK"))
_ICMP = {(1, 0): "echo reply", (1, 8): "echo request", (1, 3): "unreachable"}
_ICMP6 = {
    (58, 128): "echo request",
    (58, 129): "echo reply",
    (58, 133): "router solicitation",
    (58, 134): "router advertisement",
    (58, 135): "neighbour solicitation",
    (58, 136): "neighbour advertisement",
    (58, 143): "multicast listener report",
}


@dataclass(frozen=True)
class EthernetHeader:
    """The 14 bytes at the start of a frame.

    Attributes:
        destination: 6 bytes.
        source: 6 bytes.
        ethertype: 0x0600 to 0xFFFF; lower values are 802.3 lengths.
    """

    destination: bytes
    source: bytes
    ethertype: int

    @classmethod
    def parse(cls, frame: Buffer) -> Self:
        """Read the header of ``frame``, which has at least 14 bytes.

        Raises:
            ValueError: The frame is shorter than a header.
        """
        view = memoryview(frame)
        if view.nbytes < _HEADER.size:
            msg = f"frame of {view.nbytes} bytes is shorter than its 14-byte header"
            raise ValueError(msg)
        return cls(*_HEADER.unpack_from(view))

    def pack(self) -> bytes:
        """Return the header's 14 bytes."""
        return _HEADER.pack(self.destination, self.source, self.ethertype)


@dataclass(frozen=True)
class Summary:
    """What a person wants to know about a frame.

    Attributes:
        source: IP address if there is one, otherwise the MAC address.
        destination: The same.
        text: For example ``TCP 41234 > 7 SYN`` or ``ARP who has 10.0.0.1``.
    """

    source: str
    destination: str
    text: str


def packed_mac(text: str) -> bytes:
    """Return the six bytes of an address that is written as ``02:00:00:00:00:01``."""
    return bytes.fromhex(text.replace(":", ""))


def summarize(frame: Buffer) -> Summary:
    """Describe a frame of any content; never raises for what a network may carry.

    Args:
        frame: Whole Ethernet frame.
    """
    data = bytes(frame)
    if len(data) < _HEADER.size:
        return Summary("?", "?", f"{len(data)} bytes, too short for a frame")
    header = EthernetHeader.parse(data)
    parse = _PARSERS.get(header.ethertype)
    try:
        if parse is not None:
            return parse(data[_HEADER.size :])
    except (struct.error, IndexError, ValueError):
        pass  # cut short or malformed: say what the header says
    return Summary(
        header.source.hex(":"),
        header.destination.hex(":"),
        f"EtherType {header.ethertype:#06x}, {len(data)} bytes",
    )


def _arp(packet: bytes) -> Summary:
    *_, operation, _, sender, _, target = _ARP.unpack_from(packet)
    who, whom = str(ipaddress.IPv4Address(sender)), str(ipaddress.IPv4Address(target))
    if operation == 1:
        return Summary(who, whom, f"ARP who has {whom}?")
    return Summary(who, whom, f"ARP {who} is here")


def _ipv4(packet: bytes) -> Summary:
    header_length = (packet[0] & 0x0F) * 4
    total = struct.unpack_from("!H", packet, 2)[0]
    source = ipaddress.IPv4Address(packet[12:16])
    destination = ipaddress.IPv4Address(packet[16:20])
    if struct.unpack_from("!H", packet, 6)[0] & 0x1FFF:
        text = f"IP fragment, {total - header_length} bytes"
    else:
        text = _upper(packet[9], packet[header_length:total])
    return Summary(str(source), str(destination), text)


def _ipv6(packet: bytes) -> Summary:
    length = struct.unpack_from("!H", packet, 4)[0]
    source = ipaddress.IPv6Address(packet[8:24])
    destination = ipaddress.IPv6Address(packet[24:40])
    protocol, payload = packet[6], packet[40 : 40 + length]
    if protocol == 0:  # hop-by-hop options, as multicast listener reports have
        protocol, payload = payload[0], payload[(payload[1] + 1) * 8 :]
    return Summary(str(source), str(destination), _upper(protocol, payload))


def _upper(protocol: int, payload: bytes) -> str:
    if protocol == 6:
        return _tcp(payload)
    if protocol == 17:
        source, destination, length = struct.unpack_from("!HHH", payload)
        return f"UDP {source} > {destination}, {max(length - 8, 0)} bytes"
    if protocol in {1, 58}:
        name = (_ICMP | _ICMP6).get((protocol, payload[0]), f"type {payload[0]}")
        return f"ICMP {name}"
    return f"IP protocol {protocol}, {len(payload)} bytes"


def _tcp(segment: bytes) -> str:
    source, destination, _, _, offset, flags, _ = _TCP.unpack_from(segment)
    names = " ".join(name for bit, name in _TCP_FLAGS if flags & bit)
    length = len(segment) - (offset >> 4) * 4
    data = f", {length} bytes" if length > 0 else ""
    return f"TCP {source} > {destination} {names}{data}"


_PARSERS: dict[int, Callable[[bytes], Summary]] = {
    0x0800: _ipv4,
    0x0806: _arp,
    0x86DD: _ipv6,
}
