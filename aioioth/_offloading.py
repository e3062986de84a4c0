"""Frames with a virtio header on their way through a switch.

A port has them if its stack leaves to it what it would leave to a network card. What
goes from one such port to another passes as it is; what goes to any other is completed,
and cut if it was long.

Source: <linux/virtio_net.h>, Linux 6.1; `aioioth.wire.offload`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aioioth.wire.offload import (
    EMPTY_HEADER,
    HEADER_SIZE,
    NEEDS_CHECKSUM,
    VNET_HEADER,
    complete,
)

__all__ = ["Cut", "Kept", "WithHeader", "edited_with_header"]

# Takes a frame as the port has it where it came in: bytes, or a memoryview of a buffer
# that is used again, with a virtio header.
Exit = Callable[[Any], object]
Exits = tuple[Exit, ...]
Edit = Callable[[bytes], bytes]

# Behind two addresses and a VLAN tag.
_EDITED = HEADER_SIZE + 16


class WithHeader:
    """Hands on a complete frame behind a header that says so."""

    def __init__(self, outs: Exits) -> None:
        self._outs = outs

    def __call__(self, frame: bytes) -> None:
        data = EMPTY_HEADER + frame
        for out in self._outs:
            out(data)


class Kept:
    """Hands on a copy of a frame."""

    def __init__(self, outs: Exits) -> None:
        self._outs = outs

    def __call__(self, frame: memoryview) -> None:
        data = bytes(frame)
        for out in self._outs:
            out(data)


class Cut:
    """Hands on the frames that one is on the wire.

    Args:
        outs: Take them.
        losers: Told the cause if it cannot be cut.
    """

    def __init__(
        self, outs: Exits, losers: tuple[Callable[[str], object], ...]
    ) -> None:
        self._outs = outs
        self._losers = losers

    def __call__(self, frame: memoryview) -> None:
        try:
            parts = complete(frame)
        except ValueError:
            for lose in self._losers:
                lose("not to be cut")
            return
        for part in parts:
            for out in self._outs:
                out(part)


def edited_with_header(edit: Edit) -> Callable[[memoryview], memoryview]:
    """Return what changes a frame behind its header, and the header with it.

    Args:
        edit: Puts a VLAN tag in or takes it out, or does neither; looks at the first 16
            bytes, and gets no more.
    """

    def change(frame: memoryview) -> memoryview:
        before = bytes(frame[HEADER_SIZE:_EDITED])
        after = edit(before)
        longer = len(after) - len(before)
        flags, kind, headers, size, start, place = VNET_HEADER.unpack_from(frame)
        if headers:
            headers += longer
        if flags & NEEDS_CHECKSUM:
            start += longer
        # What is no header gets nowhere: it cannot be out of range for pack.
        header = VNET_HEADER.pack(
            flags, kind, headers & 0xFFFF, size, start & 0xFFFF, place
        )
        return memoryview(b"".join((header, after, frame[_EDITED:])))

    return change
