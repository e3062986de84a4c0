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

from aioioth._speedups import FULL, SOURCE_BROKEN, why_broken
from aioioth.abc import SignalsRoom
from aioioth.wire.offload import HEADER_SIZE

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from typing_extensions import Buffer

    from aioioth._merging import Merger
    from aioioth._speedups import Mover

# 64 frames of 1514 bytes take 0.2 to 0.3 ms: long enough to be worth the wake-up, short
# enough for everybody else on the loop.
BUDGET = 64

# Frames that are moved one for each wake-up after one had come alone: in a conversation
# there is none behind it, and looking is a system call, and mostly an exception.
# Measured over udp://, a round trip takes a quarter less on asyncio. A burst is noticed
# this many frames late.
ALONE = 7

# Segments of 64 KiB take 15 to 30 us each, wherever they go.
BUDGET_BYTES = 1 << 19

# The largest frame of a TAP: 64 KiB, its header and a virtio header.
BUFFER_SIZE = 65536 + 18 + HEADER_SIZE

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
_MALFORMED = "malformed"
_NO_CARRIER = "no carrier"


class End(Protocol):
    """A device or a plug; see `aioioth.abc.Plug` for what each method promises.

    A device may have ``skip``, bytes to ignore in front of each frame, ``merger``,
    which writes frames of one wake-up together, and ``write``, which does not.
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


def _refuse(_: Buffer, /) -> None:
    """Write nothing; see `Pump.deliver`."""


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
        self._skip = self._front = 0
        self._headers = False
        self._merger: Merger | None = getattr(sink, "merger", None)
        self._mover: Mover | None = None
        self._write: Callable[[Buffer], int | None] = getattr(sink, "write", _refuse)
        self._reading = -1
        self._writing = -1

    def start(self) -> None:
        """Start moving frames."""
        self._skip = getattr(self._source, "skip", 0)
        self._front = HEADER_SIZE if self._headers else self._skip
        self._reading = self._source.fileno()
        self._loop.add_reader(self._reading, self._on_readable)

    def carry_headers(self) -> None:
        """Know, before the start, that frames pass with a virtio header."""
        self._headers = True

    def use(self, mover: Mover) -> None:
        """Have somebody else move the frames of a wake-up, from before the start."""
        self._mover = mover

    def deliver(self, frame: Buffer, /) -> bool:
        """Move a frame with a header that is not from the source, at once.

        On the loop's thread, outside of this pump's own wake-ups. A sink that keeps
        frames has written them by then. What goes wrong is met again, and dealt with,
        when the frame comes from the source.

        Returns:
            Whether it was taken.
        """
        if self._reading == -1:
            return False
        try:
            length = self._write(frame)
        except OSError:
            return False
        if length is None:
            return False
        self._counters.frames += 1
        self._counters.bytes += length - HEADER_SIZE
        return True

    def stop(self) -> None:
        """Stop; what was held is lost. Idempotent."""
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
        if self._mover is not None and (lost := self._mover.clear()):
            self._count(_NO_CARRIER, lost)

    def forget(self) -> None:
        """Do nothing any more, in a forked child; the readers are the parent's too."""
        self._reading = self._writing = -1
        self._source = self._sink = _Nothing()
        self._write = _refuse
        self._merger = self._mover = None
        self._held = b""

    def flush(self) -> None:
        """Move what is waiting right now, one budget at most."""
        if self._reading != -1:
            self._on_readable()

    def _on_readable(self) -> None:
        if self._mover is not None:
            self._move_compiled(self._mover)
            return
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
        running = self._reading != -1 or self._writing != -1
        if running and not self._count_drops(merger.error, lost):
            self._break(self._sink, merger.error)

    # One piece: a call for each frame would cost more than all that is done here.
    def _move(self) -> None:  # noqa: C901, PLR0915
        recv_into, send, buffer = self._source.recv_into, self._sink.send, self._buffer
        skip, most = self._skip, BUDGET
        broken: tuple[End, OSError] | None = None
        if self._alone:
            self._alone -= 1
            most = 1
        frames = octets = 0
        for moved in range(most):
            # Sockets raise when they would have to wait, files return None.
            try:
                length = recv_into(buffer)
            except BlockingIOError:
                length = None
            except OSError as error:
                broken = self._source, error
                break
            if length is None:
                self._alone = ALONE if moved == 1 else 0
                break
            frame = buffer[skip:length]
            try:
                sent = send(frame)
            except BlockingIOError:
                sent = None
            except OSError as error:
                if self._count_drops(error):
                    continue
                broken = self._sink, error
                break
            if sent is None:
                self._hold(frame)
                break
            frames += 1
            octets += length
            if octets > BUDGET_BYTES:
                break
        # Readiness is level-triggered: what is left wakes us on the next turn of the
        # loop, after the callbacks that were waiting behind this one.
        counters = self._counters
        counters.frames += frames
        counters.bytes += octets - frames * self._front
        if broken is not None:
            self._break(*broken)

    def _move_compiled(self, mover: Mover) -> None:
        """Do as `_move` and `_finish` do, and `_on_writable`, in one call."""
        state, frames, octets = mover.move(BUDGET)
        counters = self._counters
        counters.frames += frames
        counters.bytes += octets
        if mover.dropped:
            for number, count in mover.take_drops().items():
                self._count(self._drop_causes.get(number, _MALFORMED), count)
        if state < FULL:
            if self._writing != -1:
                self._go_on()
        elif state == FULL:
            if self._writing == -1:
                self._wait_for_room()
        else:
            end = self._source if state == SOURCE_BROKEN else self._sink
            self._break(end, why_broken(mover))

    def _hold(self, frame: memoryview) -> None:
        self._held = bytes(frame)
        self._wait_for_room()

    def _wait_for_room(self) -> None:
        self._counters.pauses += 1
        self._loop.remove_reader(self._reading)
        self._reading = -1
        sink = self._sink
        self._writing = (
            sink.room_fileno() if isinstance(sink, SignalsRoom) else sink.fileno()
        )
        self._loop.add_writer(self._writing, self._on_writable)

    def _go_on(self) -> None:
        self._loop.remove_writer(self._writing)
        self._writing = -1
        self.start()

    def _on_writable(self) -> None:
        if self._mover is not None:
            self._move_compiled(self._mover)
            return
        held = self._held
        assert held is not None
        try:
            if self._sink.send(memoryview(held)) is None:
                return
        except BlockingIOError:
            return
        except OSError as error:
            if not self._count_drops(error):
                self._break(self._sink, error)
                return
        else:
            self._counters.frames += 1
            self._counters.bytes += len(held) - (self._front - self._skip)
        self._held = None
        self._go_on()
        self._finish()

    def _count_drops(self, error: OSError, count: int = 1) -> bool:
        """Count frames that the sink did not take; False if the sink is broken."""
        cause = self._drop_causes.get(error.errno or 0)
        if cause is None:
            return False
        self._count(cause, count)
        return True

    def _count(self, cause: str, count: int) -> None:
        drops = self._counters.drops
        drops[cause] = drops.get(cause, 0) + count

    def _break(self, end: End, error: OSError) -> None:
        self.stop()
        self._on_broken(end, error)
