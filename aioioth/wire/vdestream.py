"""Frames in a stream of bytes: a length, a frame, a length, a frame, ...

The length is unsigned and in network byte order. It has 2 bytes in vdestream, which
VDE's programs speak through pipes, and 4 in what passt and qemu speak through sockets.
There is no greeting and no goodbye, and no way to find the next length once one is
wrong: a stream that breaks the rules is over.

Between two of our own there may be a struct virtio_net_hdr in front of each frame, in
the machine's byte order. Then the first message, both ways, is a `GREETING`. It is
shorter than any Ethernet frame, so who does not know it drops it; and who sends another
one first does not know it.

Source: vde_plug 4.0.1 and dpipe 2.3.2 of Debian 12, which take 9236 bytes and skip what
has no length at all; passt of 2023-03-09, and ``-netdev stream`` of qemu 7.2. Offloads
are aioioth's own: <linux/virtio_net.h>, Linux 6.1.
"""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aioioth.wire.offload import (
    EMPTY_HEADER,
    HEADER_SIZE,
    JOINED_TCPV4,
    JOINED_TCPV6,
    JOINED_UDP,
    NEEDS_CHECKSUM,
    VNET_HEADER,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "GREETING",
    "OFFLOADED",
    "QEMU",
    "VDESTREAM",
    "Decoder",
    "Framing",
    "is_sound",
]

_ETHERNET_HEADER = 14
_WITH_TAG = 18
_LONGEST = 65535

_CHECKED = 2  # VIRTIO_NET_HDR_F_DATA_VALID
_JOINED = {
    JOINED_TCPV4,
    JOINED_TCPV6,
    JOINED_UDP,
    JOINED_TCPV4 | 0x80,  # VIRTIO_NET_HDR_GSO_ECN
    JOINED_TCPV6 | 0x80,
}


@dataclass(frozen=True)
class Framing:
    """How long the lengths are, and how long the frames.

    Attributes:
        name: In error messages.
        header: The length.
        longest: What a frame may have in bytes.
        mtu: Payload of a frame that every program of the kind takes.
        shortest: What a frame has in bytes at least.
    """

    name: str
    header: struct.Struct
    longest: int
    mtu: int
    shortest: int = _ETHERNET_HEADER

    def pack(self, frame: Buffer) -> bytes:
        """Return a frame as it goes into the stream.

        Raises:
            ValueError: It is too long.
        """
        data = memoryview(frame)
        if data.nbytes > self.longest:
            msg = f"a frame of {data.nbytes} bytes; {self.name} has {self.longest}"
            raise ValueError(msg)
        return self.header.pack(data.nbytes) + data


VDESTREAM = Framing("vdestream", struct.Struct(">H"), 9236, 9216)
QEMU = Framing("qemu's stream", struct.Struct(">I"), 65520 + 18, 65520)


# A virtio header is part of the frame here.
OFFLOADED = Framing(
    "vdestream with offloads",
    struct.Struct(">H"),
    _LONGEST,
    _LONGEST - HEADER_SIZE - _WITH_TAG,
    HEADER_SIZE + _ETHERNET_HEADER,
)

# The byte order is said because what follows has the machine's.
GREETING = VDESTREAM.pack(b"offload " + (b"<" if sys.byteorder == "little" else b">"))


def is_sound(frame: Buffer) -> bool:
    """Whether the virtio header in front of a frame is one that a kernel may be given.

    Whether the frame is what it says is the kernel's business. This is about what
    kernels do not write themselves, and have stumbled over.

    Args:
        frame: From anywhere, with a header.
    """
    data = memoryview(frame)
    if data.nbytes < OFFLOADED.shortest:
        return False
    if data[:HEADER_SIZE] == EMPTY_HEADER:
        return True
    length = data.nbytes - HEADER_SIZE
    flags, kind, headers, size, start, place = VNET_HEADER.unpack_from(data)
    if flags != NEEDS_CHECKSUM:
        rest = kind, headers, size, start, place
        return flags in {0, _CHECKED} and not any(rest)
    if start < _ETHERNET_HEADER or start + place + 2 > length or headers > length:
        return False
    # 65535 means something else inside of a kernel (GSO_BY_FRAGS).
    return kind in _JOINED and 0 < size < _LONGEST if kind else not size


class Decoder:
    """Cuts a stream into frames, wherever its pieces begin and end.

    What it keeps is less than one frame.

    Attributes:
        short: Frames that were too short to be any, and not passed on.
        broken: Why the stream is over; None while it is not.
    """

    def __init__(self, framing: Framing) -> None:
        self.short: int = 0
        self.broken: str | None = None
        self._framing = framing
        # The beginning of a length or a frame, and how long it is going to be.
        self._rest = bytearray()
        self._wanted = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Return the frames that are complete with the next piece of the stream.

        Those before a length that is too long, too; nothing from then on.
        """
        if self.broken is not None:
            return []
        frames: list[bytes] = []
        at = 0
        if self._rest:
            at = self._complete(data, frames)
            if at < 0:
                return frames
        unpack, size = self._framing.header.unpack_from, self._framing.header.size
        shortest, longest = self._framing.shortest, self._framing.longest
        end, wanted = len(data), size
        while (start := at + size) <= end:
            length: int = unpack(data, at)[0]
            if length > longest:
                self._break(length)
                return frames
            if start + length > end:
                wanted = size + length
                break
            at = start + length
            if length >= shortest:
                frames.append(data[start:at])
            elif length:
                self.short += 1
        if at < end:
            self._rest += data[at:]
            self._wanted = wanted
        return frames

    def _complete(self, data: bytes, frames: list[bytes]) -> int:
        """Complete what has begun, and return how much of the piece belongs to it.

        Each byte is copied once, however small the pieces of a frame are. -1 if the
        stream is over.
        """
        rest, size, at = self._rest, self._framing.header.size, 0
        while True:
            end = at + self._wanted - len(rest)
            rest += data[at:end]
            if len(rest) < self._wanted:
                return len(data)
            at = end
            length: int = self._framing.header.unpack_from(rest)[0]
            if length > self._framing.longest:
                self._break(length)
                return -1
            if self._wanted == size + length:
                break
            self._wanted = size + length
        if length >= self._framing.shortest:
            with memoryview(rest) as view:
                frames.append(bytes(view[size:]))
        elif length:
            self.short += 1
        rest.clear()
        return at

    def _break(self, length: int) -> None:
        self._rest.clear()
        self.broken = (
            f"a frame of {length} bytes; {self._framing.name} has "
            f"{self._framing.longest} at most, so this is something else, or out of "
            f"step"
        )
