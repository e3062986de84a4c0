"""Frames in a stream of bytes: a length, a frame, a length, a frame, ...

The length is unsigned and in network byte order. It has 2 bytes in vdestream, which
VDE's programs speak through pipes, and 4 in what passt and qemu speak through sockets.
There is no greeting and no goodbye, and no way to find the next length once one is
wrong: a stream that breaks the rules is over.

Source: vde_plug 4.0.1 and dpipe 2.3.2 of Debian 12, which take 9236 bytes and skip what
has no length at all; passt of 2023-03-09, and ``-netdev stream`` of qemu 7.2.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["QEMU", "VDESTREAM", "Decoder", "Framing"]

_ETHERNET_HEADER = 14


@dataclass(frozen=True)
class Framing:
    """How long the lengths are, and how long the frames.

    Attributes:
        name: In error messages.
        header: The length.
        longest: What a frame may have in bytes.
        mtu: Payload of a frame that every program of the kind takes.
    """

    name: str
    header: struct.Struct
    longest: int
    mtu: int

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


class Decoder:
    """Cuts a stream into frames, wherever its pieces begin and end.

    What it keeps is less than one frame.

    Attributes:
        short: Frames that were shorter than an Ethernet header, and not passed on.
        broken: Why the stream is over; None while it is not.
    """

    def __init__(self, framing: Framing) -> None:
        self.short: int = 0
        self.broken: str | None = None
        self._framing = framing
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the frames that are complete with the next piece of the stream.

        Those before a length that is too long, too; nothing from then on.
        """
        if self.broken is not None:
            return []
        if self._rest:
            data = self._rest + data
        unpack, size = self._framing.header.unpack_from, self._framing.header.size
        longest = self._framing.longest
        frames: list[bytes] = []
        at, end = 0, len(data)
        while (start := at + size) <= end:
            length: int = unpack(data, at)[0]
            if length > longest:
                self._rest = b""
                self.broken = (
                    f"a frame of {length} bytes; {self._framing.name} has {longest} at "
                    f"most, so this is something else, or out of step"
                )
                return frames
            if start + length > end:
                break
            at = start + length
            if length >= _ETHERNET_HEADER:
                frames.append(data[start:at])
            elif length:
                self.short += 1
        self._rest = data[at:]
        return frames
