"""What a pump does to many frames at once: in Python, and compiled."""

from __future__ import annotations

import errno
import socket
import struct
from typing import TYPE_CHECKING, Protocol

import pytest

from aioioth._merging import Merger
from aioioth.wire.offload import HEADER_SIZE, VNET_HEADER, Offload
from tests.unit.segments import Written, checksum

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack

    import aioioth_speedups as compiled
else:
    try:
        import aioioth_speedups as compiled
    except ImportError:
        compiled = None

__all__ = [
    "ALONE",
    "BUILT",
    "DROPS",
    "PYTHON",
    "C",
    "Compiled",
    "CompiledCutter",
    "Cutter",
    "Ends",
    "Joiner",
    "PythonCutter",
    "Tap",
    "compiled",
]

BUILT = pytest.mark.skipif(
    compiled is None,
    reason="the compiled step is not installed: pip install ./speedups",
)
PYTHON, C = pytest.param("python"), pytest.param("compiled", marks=BUILT)

DROPS = [errno.EIO, errno.EINVAL]
ALONE = bytes(HEADER_SIZE)


class Ends:
    """Both sockets of a pair, the near one for the code that is tested."""

    def __init__(self, undo: ExitStack, kind: int = socket.SOCK_DGRAM) -> None:
        self.near, self.far = socket.socketpair(socket.AF_UNIX, kind)
        for each in (self.near, self.far):
            undo.callback(each.close)
            each.setblocking(False)
        self.far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)  # 100 frames

    def fileno(self) -> int:
        return self.near.fileno()

    def feed(self, *messages: bytes) -> None:
        for each in messages:
            self.far.send(each)

    def drain(self) -> Iterator[bytes]:
        while True:
            try:
                message = self.far.recv(1 << 17)
            except BlockingIOError:
                return
            if not message:
                return
            yield message


# To a TAP


class Joiner(Protocol):
    """Writes frames to a TAP."""

    def send(self, *frames: bytes) -> list[Written]: ...


class Tap:
    """What was written, and the merger in front of it."""

    def __init__(self) -> None:
        self.written: list[Written] = []
        self.answer: OSError | None = None
        self.full = False
        self.merger = Merger(self._write)

    def _write(self, data: memoryview) -> int | None:
        if self.answer is not None:
            raise self.answer
        if self.full:
            return None
        flags, kind, header_length, size, *rest = struct.unpack(
            "=BBHHHH", data[:HEADER_SIZE]
        )
        written = Written(kind, header_length, size, bytes(data[HEADER_SIZE:]), flags)
        assert (flags, rest) == ((1, [written.transport, 16]) if kind else (0, [0, 0]))
        self.written.append(written)
        return len(data)

    def send(self, *frames: bytes) -> list[Written]:
        for frame in frames:
            self.merger.send(memoryview(frame))
        self.merger.finish()
        written, self.written = self.written, []
        return written


class Compiled:
    """The compiled one, between two sockets."""

    def __init__(self, network: Ends, tap: Ends) -> None:
        self.network, self.tap = network, tap
        self.receiver = compiled.Receiver(
            network.fileno(), tap.fileno(), DROPS, size=1618
        )
        self.drops: dict[int, int] = {}

    def send(self, *frames: bytes) -> list[Written]:
        self.network.feed(*frames)
        written: list[Written] = []
        state, moved = compiled.MORE, 0
        while state == compiled.MORE:
            state, count, _ = self.receiver.move(64)
            moved += count
            written += map(as_written, self.tap.drain())
        assert state == compiled.EMPTY
        self.drops = self.receiver.take_drops()
        assert moved + sum(self.drops.values()) == len(frames)
        return written


def as_written(data: bytes) -> Written:
    """Read what was written, and do what is left to whoever reads it."""
    flags, kind, headers, size, start, place = VNET_HEADER.unpack(data[:HEADER_SIZE])
    frame = bytearray(data[HEADER_SIZE:])
    if flags:
        assert (flags, place) == (1, 16)
        at = start + place
        frame[at : at + 2] = checksum(bytes(frame[start:])).to_bytes(2, "big")
    else:
        assert [kind, headers, size, start, place] == [0] * 5
    return Written(kind, headers, size, bytes(frame))


# From a TAP


class Cutter(Protocol):
    """Reads from a TAP."""

    def cut(self, *messages: bytes) -> list[bytes]: ...


class PythonCutter:
    """With the codec that our switches have."""

    def cut(self, *messages: bytes) -> list[bytes]:
        return [
            bytes(frame)
            for data in messages
            for frame in Offload.parse(data[:HEADER_SIZE], 0).undo(
                bytearray(data[HEADER_SIZE:])
            )
        ]


class CompiledCutter:
    """The compiled one, between two sockets."""

    def __init__(self, tap: Ends, network: Ends) -> None:
        self.tap, self.network = tap, network
        self.sender = compiled.Sender(tap.fileno(), network.fileno(), DROPS)
        self.pauses = 0

    def cut(self, *messages: bytes) -> list[bytes]:
        frames: list[bytes] = []
        moved = octets = 0
        for message in messages:
            self.tap.feed(message)
            state = compiled.MORE
            while state in {compiled.MORE, compiled.FULL}:
                state, count, size = self.sender.move(64)
                moved, octets = moved + count, octets + size
                assert (state == compiled.FULL) == bool(self.sender.pending)
                frames += self.network.drain()
                self.pauses += state == compiled.FULL
            assert state == compiled.EMPTY
        assert (moved, octets) == (len(frames), sum(map(len, frames)))
        return frames
