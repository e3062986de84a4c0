"""Frames from here to there: one direction between a device and a plug.

A pump is a reader on the event loop. Each wake-up moves frames until there are none or
the budget is used up, and never waits: measured, a frame costs 7 to 10 us with one
frame for each wake-up and 2 to 3.6 us when drained.

When the sink is full the pump keeps the one frame that did not go, stops reading and
watches the sink until it is writable. The queue then builds up in the kernel, on the
source's side, where TCP sees it. Nothing a pump meets is raised into the loop.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from aioioth.abc import SignalsRoom

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from aioioth._merging import Merger

# 64 frames of 1514 bytes take 0.2 to 0.3 ms: long enough to be worth the wake-up, short
# enough for everybody else on the loop.
BUDGET = 64

# Frames that are moved one for each wake-up after one had come alone: in a conversation
# there is none behind it, and looking is a system call, and mostly an exception.
# Measured over udp://, a round trip takes a quarter less on asyncio. A burst is noticed
# this many frames late.
ALONE = 7

# The largest frame of a TAP: 64 KiB and a header.
BUFFER_SIZE = 65536 + 18

# A frame that meets one of these is dropped and counted; the sink itself is all right.
PLUG_DROPS = {
    errno.ENOBUFS: "no buffer space",
    errno.ENOMEM: "no memory",
    errno.EMSGSIZE: "too long",
    errno.ENOMSG: "filtered",  # a transform's
    errno.ENETDOWN: "interface down",  # a packet socket's
    errno.ENETUNREACH: "unreachable",  # a UDP socket's, and the three that follow
    errno.EHOSTUNREACH: "unreachable",
    errno.EADDRNOTAVAIL: "unreachable",
    errno.EPERM: "forbidden",
}
DEVICE_DROPS = PLUG_DROPS | {
    errno.EINVAL: "malformed",  # a TAP's word for a frame shorter than a header
    errno.EIO: "interface down",  # a TAP's word
}


class End(Protocol):
    """A device or a plug; see `aioioth.abc.Plug` for what each method promises.

    A device may have ``skip``, bytes to ignore in front of each frame, and ``merger``,
    which writes frames of one wake-up together.
    """

    def fileno(self) -> int: ...
    def recv_into(self, buffer: memoryview, /) -> int | None: ...
    def send(self, frame: memoryview, /) -> int | None: ...


@dataclass
class Counters:
    """What went one way through an interface.

    Attributes:
        frames: Frames delivered.
        bytes: Their length together, Ethernet headers included.
        drops: Frames lost here, by cause.
        pauses: How often the sink was full and the pump waited for it.
    """

    frames: int = 0
    bytes: int = 0
    drops: dict[str, int] = field(default_factory=dict)
    pauses: int = 0


class _Nothing:
    """An end without frames."""

    def fileno(self) -> int:
        return -1

    def recv_into(self, _: memoryview, /) -> None: ...
    def send(self, _: memoryview, /) -> None: ...


class Pump:
    """Moves frames from ``source`` to ``sink`` while it is started.

    Args:
        loop: The event loop that it is a reader of.
        source: Where frames come from.
        sink: Where they go.
        drop_causes: What the sink may answer to a frame without being broken.
        counters: Counted up.
        buffer: BUFFER_SIZE bytes that all pumps of a loop may share: none keeps
            anything there between two wake-ups.
        on_broken: Called once, from the loop, with the end that broke and its error.
            The pump has stopped then.
    """

    def __init__(  # noqa: PLR0917  (one call site, all wiring)
        self,
        loop: asyncio.AbstractEventLoop,
        source: End,
        sink: End,
        drop_causes: Mapping[int, str],
        counters: Counters,
        buffer: memoryview,
        on_broken: Callable[[End, OSError], None],
    ) -> None:
        self._loop = loop
        self._source = source
        self._sink = sink
        self._drop_causes = drop_causes
        self._counters = counters
        self._buffer = buffer
        self._on_broken = on_broken
        self._held: bytes | None = None
        self._alone = 0
        self._skip: int = getattr(source, "skip", 0)
        self._merger: Merger | None = getattr(sink, "merger", None)
        self._reading = -1
        self._writing = -1

    def start(self) -> None:
        """Start moving frames."""
        self._reading = self._source.fileno()
        self._loop.add_reader(self._reading, self._on_readable)

    def stop(self) -> None:
        """Stop; a frame that was held is lost. Idempotent."""
        # Before anybody closes the descriptors: uvloop aborts the process if a reader
        # is left on a closed one. A closed loop has none, and refuses to be asked.
        reading, self._reading = self._reading, -1
        writing, self._writing = self._writing, -1
        if not self._loop.is_closed():
            if reading != -1:
                self._loop.remove_reader(reading)
            if writing != -1:
                self._loop.remove_writer(writing)
        self._held = None

    def forget(self) -> None:
        """Do nothing any more, in a forked child; the readers are the parent's too."""
        self._reading = self._writing = -1
        self._source = self._sink = _Nothing()
        self._merger = None
        self._held = b""

    def flush(self) -> None:
        """Move what is waiting right now, one budget at most."""
        if self._reading != -1:
            self._on_readable()

    def _on_readable(self) -> None:
        self._move()
        self._finish()

    def _finish(self) -> None:
        """Have the sink write what it has kept to write it together."""
        merger = self._merger
        if merger is not None:
            merger.finish()
            if merger.lost:
                self._count_lost(merger)

    def _count_lost(self, merger: Merger) -> None:
        """Take back what was counted as delivered, and was kept and then lost."""
        self._counters.frames -= merger.lost
        self._counters.bytes -= merger.lost_bytes
        lost, merger.lost, merger.lost_bytes = merger.lost, 0, 0
        if self._reading != -1 or self._writing != -1:
            self._drop(merger.error, lost)

    def _move(self) -> None:
        recv_into, send, buffer = self._source.recv_into, self._sink.send, self._buffer
        counters, skip = self._counters, self._skip
        budget = BUDGET
        if self._alone:
            self._alone -= 1
            budget = 1
        for moved in range(budget):
            # Sockets raise when they would have to wait, files return None.
            try:
                length = recv_into(buffer)
            except BlockingIOError:
                length = None
            except OSError as error:
                self._break(self._source, error)
                return
            if length is None:
                self._alone = ALONE if moved == 1 else 0
                return
            frame = buffer[skip:length]
            try:
                sent = send(frame)
            except BlockingIOError:
                sent = None
            except OSError as error:
                if not self._drop(error):
                    return
                continue
            if sent is None:
                self._hold(frame)
                return
            counters.frames += 1
            counters.bytes += length - skip
        # Readiness is level-triggered: what is left wakes us on the next turn of the
        # loop, after the callbacks that were waiting behind this one.

    def _hold(self, frame: memoryview) -> None:
        self._held = bytes(frame)
        self._counters.pauses += 1
        self._loop.remove_reader(self._reading)
        self._reading = -1
        sink = self._sink
        self._writing = (
            sink.room_fileno() if isinstance(sink, SignalsRoom) else sink.fileno()
        )
        self._loop.add_writer(self._writing, self._on_writable)

    def _on_writable(self) -> None:
        held = self._held
        assert held is not None
        try:
            if self._sink.send(memoryview(held)) is None:
                return
        except BlockingIOError:
            return
        except OSError as error:
            if not self._drop(error):
                return
        else:
            self._counters.frames += 1
            self._counters.bytes += len(held)
        self._held = None
        self._loop.remove_writer(self._writing)
        self._writing = -1
        self.start()
        self._finish()

    def _drop(self, error: OSError, count: int = 1) -> bool:
        """Count frames that the sink did not take; False if the sink is broken."""
        cause = self._drop_causes.get(error.errno or 0)
        if cause is None:
            self._break(self._sink, error)
            return False
        drops = self._counters.drops
        drops[cause] = drops.get(cause, 0) + count
        return True

    def _break(self, end: End, error: OSError) -> None:
        self.stop()
        self._on_broken(end, error)
