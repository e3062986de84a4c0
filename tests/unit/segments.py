"""Segments of TCP as frames, one by one and as a TAP is given or gives many."""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass, replace

import pytest

from aioioth.wire.offload import VNET_HEADER

V4 = socket.inet_aton("10.0.0.1") + socket.inet_aton("10.0.0.2")
V6 = socket.inet_pton(socket.AF_INET6, "fd00::1") + socket.inet_pton(
    socket.AF_INET6, "fd00::2"
)
MACS = bytes.fromhex("020000000001 020000000002")
TCP = socket.IPPROTO_TCP
CWR, ACK, PSH, FIN = 0x80, 16, 8, 1
STAMPS = bytes.fromhex("0101080a 00000001 00000002")

VERSIONS = pytest.mark.parametrize("version", [4, 6])


def checksum(data: bytes) -> int:
    """As RFC 1071 writes it, word by word."""
    total = 0
    for at in range(0, len(data) + len(data) % 2, 2):
        total += int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big")
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


@dataclass(frozen=True)
class Segment:
    payload: bytes
    sequence: int = 1000
    flags: int = ACK
    version: int = 4
    source: int = 5000
    window: int = 500
    identification: int = 7
    options: bytes = STAMPS

    def frame(self) -> bytes:
        offset = (20 + len(self.options)) // 4 << 4
        fields = (self.source, 7, self.sequence, 77, offset, self.flags, self.window)
        tcp = struct.pack("!HHIIBBHHH", *fields, 0, 0) + self.options + self.payload
        addresses = V4 if self.version == 4 else V6
        pseudo = addresses + struct.pack("!II", len(tcp), 6)
        tcp = tcp[:16] + checksum(pseudo + tcp).to_bytes(2, "big") + tcp[18:]
        if self.version == 6:
            ip = struct.pack("!IHBB", 6 << 28, len(tcp), 6, 64) + V6
            return bytes(12) + b"\x86\xdd" + ip + tcp
        length = 20 + len(tcp)
        ip = struct.pack(
            "!BBHHHBBH", 0x45, 0, length, self.identification, 0x4000, 64, 6, 0
        )
        ip += V4
        ip = ip[:10] + checksum(ip).to_bytes(2, "big") + ip[12:]
        return bytes(12) + b"\x08\x00" + ip + tcp


def run_of(count: int, size: int = 1448, **fields: int) -> list[Segment]:
    """Segments that follow one another."""
    first = Segment(b"", **fields)  # type: ignore[arg-type]
    return [
        replace(
            first,
            payload=os.urandom(size),
            sequence=(first.sequence + number * size) % 2**32,
            identification=number,
        )
        for number in range(count)
    ]


@dataclass(frozen=True)
class Written:
    """One write to the TAP."""

    kind: int
    header_length: int
    size: int
    frame: bytes
    needs: int = 0

    @property
    def transport(self) -> int:
        return 34 if self.frame[12:14] == b"\x08\x00" else 54

    @property
    def payload(self) -> bytes:
        start = self.transport + (self.frame[self.transport + 12] >> 4) * 4
        return self.frame[start:]

    @property
    def sequence(self) -> int:
        return int.from_bytes(
            self.frame[self.transport + 4 : self.transport + 8], "big"
        )

    @property
    def flags(self) -> int:
        return self.frame[self.transport + 13]

    @property
    def window(self) -> bytes:
        return self.frame[self.transport + 14 : self.transport + 16]

    def is_valid(self) -> bool:
        """Whether lengths and checksums are right, all bytes of them read."""
        tcp = self.frame[self.transport :]
        if self.transport == 34:
            right = int.from_bytes(self.frame[16:18], "big") == len(self.frame) - 14
            right = right and checksum(self.frame[14:34]) == 0
            addresses = self.frame[26:34]
        else:
            right = int.from_bytes(self.frame[18:20], "big") == len(tcp)
            addresses = self.frame[22:54]
        pseudo = addresses + struct.pack("!II", len(tcp), 6)
        if self.needs:  # the kernel sums up the rest
            return right and checksum(pseudo) == 0xFFFF - int.from_bytes(
                tcp[16:18], "big"
            )
        return right and not checksum(pseudo + tcp)


def parts_of(written: list[Written]) -> list[tuple[int, int, int]]:
    """Return where TCP begins, the number and the length of each segment in there."""
    return [
        (each.transport, (each.sequence + at) % 2**32, len(each.payload[at:][:size]))
        for each in written
        for size in [each.size or len(each.payload)]
        for at in range(0, len(each.payload), size)
    ]


def parts_in(segments: list[Segment]) -> list[tuple[int, int, int]]:
    """Return the same for segments as they are sent."""
    return [
        (34 if each.version == 4 else 54, each.sequence, len(each.payload))
        for each in segments
    ]


def long_frame(
    version: int,
    payload: bytes,
    size: int,
    *,
    tag: bytes = b"",
    flags: int = ACK,
    sequence: int = 1000,
    options: bytes = STAMPS,
) -> bytes:
    """What a TAP gives that may leave cutting and checksums to us, header included."""
    offset = (20 + len(options)) // 4 << 4
    length = 20 + len(options) + len(payload)
    addresses = V4 if version == 4 else V6
    pseudo = 0xFFFF - checksum(addresses + struct.pack("!II", length, TCP))
    tcp = struct.pack("!HHIIBBHHH", 1, 2, sequence, 3, offset, flags, 4, pseudo, 0)
    tcp += options + payload
    if version == 4:
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 0xFFFF, 0, 64, TCP, 0)
        ip = ip[:10] + checksum(ip + V4).to_bytes(2, "big") + V4
        frame = MACS + tag + b"\x08\0" + ip + tcp
    else:
        ip = struct.pack("!IHBB", 6 << 28, length, TCP, 64)
        frame = MACS + tag + b"\x86\xdd" + ip + V6 + tcp
    start = len(frame) - length
    kind = (1 if version == 4 else 4) | (0x80 if flags & CWR else 0)
    headers = start + 20 + len(options)
    if not size:
        kind = headers = 0
    return VNET_HEADER.pack(1, kind, headers, size, start, 16) + frame


def is_valid(frame: bytes, tag: bytes = b"") -> bool:
    return Written(
        0, 0, 0, frame[:12] + frame[12 + len(tag) :]
    ).is_valid() and frame.startswith(MACS + tag)
