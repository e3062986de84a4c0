"""What was left to the hardware, or done by it, and is not on the wire.

The kernel may leave checksums to be computed by a network card, and hand over many
frames of a connection as a single long one. Whoever takes frames from an interface is
told so in a header, and undoes it here.

Source: <linux/virtio_net.h>, Linux 6.1; RFC 791, RFC 768, RFC 8200, RFC 9293, RFC 1071.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Buffer

__all__ = [
    "HEADER_SIZE",
    "JOINED_TCPV4",
    "JOINED_TCPV6",
    "NEEDS_CHECKSUM",
    "VNET_HEADER",
    "Offload",
]

NEEDS_CHECKSUM = 1  # VIRTIO_NET_HDR_F_NEEDS_CSUM, in the first byte
JOINED_TCPV4 = 1  # VIRTIO_NET_HDR_GSO_TCPV4, and so on
JOINED_TCPV6 = 4
JOINED_UDP = 5
_JOINED_ECN = 0x80

# struct virtio_net_hdr, in the machine's byte order: flags, what was joined, the length
# of the headers, the payload of each part, and where a checksum is to be computed.
VNET_HEADER = struct.Struct("=BBHHHH")
HEADER_SIZE = VNET_HEADER.size

ETH_P_IP = 0x0800
ETH_P_IPV6 = 0x86DD
ETH_P_8021Q = 0x8100
ETH_P_8021AD = 0x88A8

# What a protocol's frames are called when they are joined, and where its checksum is.
_JOINED: dict[int, tuple[int, ...]] = {
    socket.IPPROTO_TCP: (JOINED_TCPV4, JOINED_TCPV6),
    socket.IPPROTO_UDP: (JOINED_UDP,),
}
_MIN_HEADER: dict[int, int] = {socket.IPPROTO_TCP: 20, socket.IPPROTO_UDP: 8}
_CHECKSUM: dict[int, int] = {socket.IPPROTO_TCP: 16, socket.IPPROTO_UDP: 6}

_TCP_FIN_PSH, _TCP_CWR = 0x09, 0x80


@dataclass(frozen=True)
class Offload:
    """What was left to the hardware, or done by it, for one frame.

    Attributes:
        partial: Whether the checksum has to be computed: what stands in its place is
            the pseudo header's.
        kind: VIRTIO_NET_HDR_GSO_*: 0, or of which kind the frames were that are joined.
        size: Payload of each of them.
        start: Where the TCP or UDP header begins, and the checksum's part of the frame.
        place: Where the checksum is in it.
    """

    partial: bool
    kind: int
    size: int
    start: int
    place: int

    @classmethod
    def parse(cls, header: Buffer, tag: int) -> Self:
        """Read a struct virtio_net_hdr.

        Args:
            header: In the machine's byte order.
            tag: Bytes that were inserted in the frame since.
        """
        flags, kind, _, size, start, offset = VNET_HEADER.unpack(header)
        return cls(
            bool(flags & NEEDS_CHECKSUM),
            kind & ~_JOINED_ECN,
            size,
            start + tag,
            start + tag + offset,
        )

    def undo(self, frame: bytearray) -> list[bytearray]:
        """Return the frames that this one is on the wire.

        Raises:
            ValueError: It cannot be told.
        """
        if self.kind:
            return list(self._cut(frame))
        if self.partial:
            if not self.start <= self.place <= len(frame) - 2:
                raise ValueError(self)
            _put(frame, self.place, _checksum(frame[self.start :]))
        return [frame]

    def _cut(self, frame: bytearray) -> Iterator[bytearray]:
        ip, start, protocol = _find_headers(frame)
        if self.kind not in _JOINED[protocol] or (self.partial and start != self.start):
            raise ValueError(self)  # the frames of a tunnel, for example
        header = 8
        if protocol == socket.IPPROTO_TCP:
            header = (frame[start + 12] >> 4) * 4 if start + 12 < len(frame) else 0
        payload = start + header
        if header < _MIN_HEADER[protocol] or payload >= len(frame) or not self.size:
            raise ValueError(self)
        for number, at in enumerate(range(payload, len(frame), self.size)):
            cut = frame[:payload] + frame[at : at + self.size]
            _finish_ip(cut, ip, number)
            if protocol == socket.IPPROTO_TCP:
                last = at + self.size >= len(frame)
                _finish_tcp(cut, start, at - payload, last=last)
            else:
                _put(cut, start + 4, len(cut) - start)
            _finish_checksum(cut, ip, start, protocol)
            yield cut


def _find_headers(frame: bytearray) -> tuple[int, int, int]:
    """Return where the IP header is and what follows it, and which protocol that is.

    Raises:
        ValueError: It is neither TCP nor UDP.
    """
    at = 12
    while int.from_bytes(frame[at : at + 2]) in {ETH_P_8021Q, ETH_P_8021AD}:
        at += 4
    ethertype, ip = int.from_bytes(frame[at : at + 2]), at + 2
    if len(frame) < ip + 28:
        raise ValueError(ethertype)
    if ethertype == ETH_P_IP:
        protocol, start = frame[ip + 9], ip + max(20, (frame[ip] & 15) * 4)
    elif ethertype == ETH_P_IPV6:
        protocol, start = frame[ip + 6], ip + 40
    else:
        raise ValueError(ethertype)
    if protocol not in _JOINED:
        raise ValueError(protocol)
    return ip, start, protocol


def _finish_ip(cut: bytearray, ip: int, number: int) -> None:
    """Set the length, and what goes with it in IPv4 (RFC 791)."""
    if cut[ip] >> 4 == 6:
        _put(cut, ip + 4, len(cut) - ip - 40)
        return
    _put(cut, ip + 2, len(cut) - ip)
    _put(cut, ip + 4, int.from_bytes(cut[ip + 4 : ip + 6]) + number)
    _put(cut, ip + 10, 0)
    _put(cut, ip + 10, _checksum(cut[ip : ip + max(20, (cut[ip] & 15) * 4)]))


def _finish_tcp(cut: bytearray, start: int, before: int, *, last: bool) -> None:
    """Set the sequence number and the flags (RFC 9293, RFC 3168)."""
    sequence = int.from_bytes(cut[start + 4 : start + 8]) + before
    cut[start + 4 : start + 8] = (sequence & 0xFFFFFFFF).to_bytes(4)
    if not last:
        cut[start + 13] &= ~_TCP_FIN_PSH & 0xFF
    if before:
        cut[start + 13] &= ~_TCP_CWR & 0xFF


def _finish_checksum(cut: bytearray, ip: int, start: int, protocol: int) -> None:
    """Compute the checksum with the pseudo header (RFC 9293, 768 and 8200)."""
    place = start + _CHECKSUM[protocol]
    _put(cut, place, 0)
    addresses = cut[ip + 8 : ip + 40] if cut[ip] >> 4 == 6 else cut[ip + 12 : ip + 20]
    length = len(cut) - start
    pseudo = addresses + length.to_bytes(4) + protocol.to_bytes(4)
    _put(cut, place, _checksum(pseudo + cut[start:]))


def _put(frame: bytearray, at: int, number: int) -> None:
    frame[at : at + 2] = (number & 0xFFFF).to_bytes(2)


def _checksum(data: bytes | bytearray) -> int:
    """Return the Internet checksum (RFC 1071).

    2**16 is 1 modulo 2**16 - 1, so the sum with its carries is a remainder: measured,
    1500 bytes take 2 us.
    """
    return 0xFFFF - int.from_bytes(data + bytes(len(data) & 1)) % 0xFFFF
