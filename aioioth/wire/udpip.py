"""UDP datagrams with their IPv4 headers, as packet sockets send and receive them.

Whoever has no address yet cannot use the kernel's UDP.

Source: RFC 791 section 3.1, RFC 768, RFC 1071.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["UdpDatagram"]

# Version and header length, type of service, length, identification, flags and
# fragment offset, time to live, protocol, checksum, source, destination.
_IP = struct.Struct("!BBHHHBBH4s4s")
_UDP = struct.Struct("!HHHH")
_PSEUDO = struct.Struct("!4s4sxBH")

_VERSION_4 = 4
_PROTOCOL = 17
_TTL = 64
_MORE_OR_OFFSET = 0x3FFF  # "more fragments", and where this one belongs
_MOST_BYTES = 65_535


@dataclass(frozen=True)
class UdpDatagram:
    """A UDP datagram, and between whom it goes.

    Attributes:
        source: Sender's address; 0.0.0.0 of who has none.
        source_port: Sender's port.
        destination: Receiver's address.
        destination_port: Receiver's port.
        data: Payload, up to 65507 bytes.
    """

    source: IPv4Address
    source_port: int
    destination: IPv4Address
    destination_port: int
    data: bytes

    @classmethod
    def parse(cls, packet: Buffer, *, checked: bool = False) -> Self:
        """Read an IPv4 packet, which may be padded at its end.

        Args:
            packet: From its IPv4 header on.
            checked: UDP's checksum is right, or has not been computed at all because
                the sender is on this machine; what stands there is not looked at.

        Raises:
            ValueError: It is no IPv4 packet, no whole UDP datagram, or was damaged.
        """
        data = bytes(packet)
        header, whole = _ip_header(data)
        protocol, source, destination = data[9], data[12:16], data[16:20]
        if protocol != _PROTOCOL:
            msg = f"IP protocol {protocol}, not UDP"
            raise ValueError(msg)
        segment = data[header:whole]
        if len(segment) < _UDP.size:
            msg = f"{len(segment)} bytes are too short for a UDP header"
            raise ValueError(msg)
        source_port, destination_port, length, checksum = _UDP.unpack_from(segment)
        if not _UDP.size <= length <= len(segment):
            msg = f"a UDP datagram of {length} bytes in {len(segment)}"
            raise ValueError(msg)
        segment = segment[:length]
        # 0: the sender did not compute one.
        if checksum and not checked and _udp_sum(source, destination, segment):
            msg = "the UDP checksum is wrong"
            raise ValueError(msg)
        return cls(
            IPv4Address(source),
            source_port,
            IPv4Address(destination),
            destination_port,
            segment[_UDP.size :],
        )

    def pack(self) -> bytes:
        """Return the IPv4 packet, all checksums computed.

        Raises:
            ValueError: It is too long.
        """
        length = _UDP.size + len(self.data)
        whole = _IP.size + length
        if whole > _MOST_BYTES:
            msg = f"{len(self.data)} bytes are too many for a UDP datagram"
            raise ValueError(msg)
        source, destination = self.source.packed, self.destination.packed
        ip = _IP.pack(
            _VERSION_4 << 4 | _IP.size // 4,
            0,
            whole,
            0,
            0,
            _TTL,
            _PROTOCOL,
            0,
            source,
            destination,
        )
        ip = ip[:10] + _checksum(ip).to_bytes(2, "big") + ip[12:]
        ports = self.source_port, self.destination_port
        udp = _UDP.pack(*ports, length, 0) + self.data
        # 0 would mean that there is none; all ones are the same number.
        checksum = _udp_sum(source, destination, udp) or 0xFFFF
        return ip + _UDP.pack(*ports, length, checksum) + self.data


def _ip_header(data: bytes) -> tuple[int, int]:
    """Return how long the header is, options and all, and how long the packet.

    Raises:
        ValueError: It is no header, or of a fragment.
    """
    if len(data) < _IP.size:
        msg = f"{len(data)} bytes are too short for an IPv4 header"
        raise ValueError(msg)
    first, _, whole, _, fragment, *_ = _IP.unpack_from(data)
    header = (first & 15) * 4
    if first >> 4 != _VERSION_4 or not _IP.size <= header <= whole <= len(data):
        msg = "the IPv4 header has a wrong version or length"
        raise ValueError(msg)
    if fragment & _MORE_OR_OFFSET:
        msg = "a fragment of an IPv4 packet"
        raise ValueError(msg)
    if _checksum(data[:header]):
        msg = "the IPv4 header's checksum is wrong"
        raise ValueError(msg)
    return header, whole


def _udp_sum(source: bytes, destination: bytes, segment: bytes) -> int:
    pseudo = _PSEUDO.pack(source, destination, _PROTOCOL, len(segment))
    return _checksum(pseudo + segment)


def _checksum(data: bytes) -> int:
    """Return the Internet's checksum; 0 of data that has the right one in it."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(word for (word,) in struct.iter_unpack("!H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
