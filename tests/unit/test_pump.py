from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import TYPE_CHECKING, Self

import pytest
import uvloop

from aioioth._pump import (
    BUDGET,
    BUDGET_BYTES,
    BUFFER_SIZE,
    DEVICE_DROPS,
    PLUG_DROPS,
    Counters,
    Pump,
)
from aioioth.errors import BrokenTransportError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from aioioth._pump import End
    from tests.unit.conftest import Pair, Watched

pytestmark = pytest.mark.usefixtures("_loop_is_content")

KINDS = [
    pytest.param(socket.SOCK_SEQPACKET, id="seqpacket"),
    pytest.param(socket.SOCK_DGRAM, id="dgram"),
]


class Stub:
    """An end that is always readable and writable, and does as it is told.

    Args:
        frames: What it gives; then it has nothing, or raises ``broken``.
        refusals: What its `send` raises, in order; None: nothing. Then nothing more.
        broken: What its `recv_into` raises when all frames were given.
    """

    def __init__(
        self,
        frames: list[bytes] | None = None,
        refusals: list[OSError | None] | None = None,
        broken: OSError | None = None,
    ) -> None:
        self.frames = frames or []
        self.refusals = refusals or []
        self.broken = broken
        self.taken: list[bytes] = []
        self._ready = os.eventfd(1, os.EFD_NONBLOCK)

    def fileno(self) -> int:
        return self._ready

    def recv_into(self, buffer: memoryview, /) -> int:
        if not self.frames:
            raise self.broken or BlockingIOError
        frame = self.frames.pop(0)
        buffer[: len(frame)] = frame
        return len(frame)

    def send(self, frame: memoryview, /) -> int:
        refusal = self.refusals.pop(0) if self.refusals else None
        if refusal is not None:
            raise refusal
        self.taken.append(bytes(frame))
        return len(frame)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._ready)


class Pumping:
    """A pump, and all that it says."""

    def __init__(
        self, source: End, sink: End, drop_causes: Mapping[int, str] = DEVICE_DROPS
    ) -> None:
        self.counters = Counters()
        self.broken: list[tuple[End, OSError]] = []
        self.source, self.sink = source, sink
        self.loop = asyncio.get_running_loop()
        self.pump = Pump(
            self.loop,
            source,
            sink,
            drop_causes,
            self.counters,
            memoryview(bytearray(BUFFER_SIZE)),
            lambda end, error: self.broken.append((end, error)),
        )

    def __enter__(self) -> Self:
        self.pump.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.pump.stop()


def never(end: End, error: OSError) -> None:
    pytest.fail(f"{end} broke: {error}")


async def turns(count: int = 10) -> None:
    """Let the loop look at its descriptors some times."""
    for _ in range(count):
        await asyncio.sleep(0)


def numbered(count: int, size: int = 100) -> list[bytes]:
    return [number.to_bytes(4, "big") * (size // 4) for number in range(count)]


def drained(sock: socket.socket) -> Iterator[bytes]:
    while True:
        try:
            yield sock.recv(BUFFER_SIZE)
        except BlockingIOError:
            return


@pytest.mark.parametrize("kind", KINDS)
async def test_frames_arrive_and_are_counted(
    make_pair: Callable[..., Pair], kind: int
) -> None:
    stack, source = make_pair(kind)
    sink, network = make_pair(kind)
    frames = [b"x" * 14, b"y" * 1514, b"z" * 9014]
    with Pumping(source, sink) as it:
        for frame in frames:
            stack.send(frame)
        await turns()
        assert list(drained(network)) == frames
        assert it.counters == Counters(frames=3, bytes=14 + 1514 + 9014)
    assert it.broken == []


async def test_a_wake_up_moves_one_budget() -> None:
    assert BUDGET == 64
    with Stub(numbered(200)) as source, Stub() as sink, Pumping(source, sink) as it:
        moved = []
        for _ in range(10):
            before = it.counters.frames
            await asyncio.sleep(0)
            moved.append(it.counters.frames - before)
        assert [count for count in moved if count] == [64, 64, 64, 8]
        assert sink.taken == numbered(200)


async def test_flush_moves_one_budget_at_once() -> None:
    with Stub(numbered(100)) as source, Stub() as sink, Pumping(source, sink) as it:
        it.pump.flush()
        assert sink.taken == numbered(64)
        it.pump.flush()
        assert sink.taken == numbered(100)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_full_sink_pauses_the_pump(
    make_pair: Callable[..., Pair], watched: Watched, kind: int
) -> None:
    stack, source = make_pair(kind)
    sink, network = make_pair(kind)
    sink.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the least there is
    frames = numbered(2000, size=1000)
    sent = 0
    arrived: list[bytes] = []
    with Pumping(source, sink) as it:
        while len(arrived) < len(frames):
            pauses = it.counters.pauses
            while it.counters.pauses == pauses and sent < len(frames):
                try:
                    stack.send(frames[sent])
                    sent += 1
                except BlockingIOError:
                    pass
                await asyncio.sleep(0)
            # What came before the pause is all there is; the rest stays where it is.
            await turns()
            arrived += drained(network)
            await turns()
        assert arrived == frames
        total = sum(map(len, frames))
        assert it.counters.frames == len(frames)
        assert it.counters.bytes == total
        assert it.counters.drops == {}
        assert it.counters.pauses > 10
    assert it.broken == []
    assert not {source.fileno(), sink.fileno()} & watched().keys()


async def test_a_paused_pump_leaves_the_source_alone(watched: Watched) -> None:
    refusals: list[OSError | None] = [BlockingIOError() for _ in range(4)]
    with (
        Stub(numbered(3)) as source,
        Stub(refusals=refusals) as sink,
        Pumping(source, sink) as it,
    ):
        it.pump.flush()
        await asyncio.sleep(0)
        assert source.fileno() not in watched()
        it.pump.flush()
        assert source.frames == numbered(3)[1:]
        await turns()
        # Refused again while it was held: that is still the same pause.
        assert it.counters == Counters(frames=3, bytes=300, pauses=1)
        assert sink.taken == numbered(3)
        assert source.fileno() in watched()
        assert sink.fileno() not in watched()


async def test_the_held_frame_is_a_copy() -> None:
    with (
        Stub([b"first" * 20]) as source,
        Stub(refusals=[BlockingIOError()]) as sink,
        Pumping(source, sink) as it,
    ):
        it.pump.flush()
        # Another pump of the loop uses the buffer meanwhile.
        with Stub([b"other" * 20]) as other, Stub() as others_sink:
            pump = Pump(
                it.loop, other, others_sink, {}, Counters(), it.pump._buffer, never
            )
            pump.start()
            pump.flush()
            pump.stop()
        await turns()
        assert sink.taken == [b"first" * 20]


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (errno.ENOBUFS, "no buffer space"),
        (errno.ENOMEM, "no memory"),
        (errno.EMSGSIZE, "too long"),
        (errno.EINVAL, "malformed"),
        (errno.EIO, "interface down"),
        (errno.ENETDOWN, "interface down"),
    ],
)
async def test_a_frame_that_is_refused_is_dropped_and_counted(
    code: int, cause: str
) -> None:
    refused = OSError(code, os.strerror(code))
    with (
        Stub(numbered(4)) as source,
        Stub(refusals=[None, refused, refused]) as sink,
        Pumping(source, sink) as it,
    ):
        await turns()
        assert it.counters == Counters(frames=2, bytes=200, drops={cause: 2})
        assert sink.taken == [numbered(4)[0], numbered(4)[3]]
        assert it.broken == []


async def test_a_held_frame_may_be_dropped_too() -> None:
    refusals = [BlockingIOError(), OSError(errno.ENOBUFS, "")]
    with (
        Stub(numbered(3)) as source,
        Stub(refusals=[*refusals]) as sink,
        Pumping(source, sink) as it,
    ):
        await turns()
        assert sink.taken == numbered(3)[1:]
        assert it.counters == Counters(
            frames=2, bytes=200, drops={"no buffer space": 1}, pauses=1
        )


async def test_causes_are_counted_apart() -> None:
    refusals = [
        OSError(code, "")
        for code in (errno.EMSGSIZE, errno.ENOBUFS, errno.EMSGSIZE, errno.EIO)
    ]
    with (
        Stub(numbered(4)) as source,
        Stub(refusals=[*refusals]) as sink,
        Pumping(source, sink) as it,
    ):
        await turns()
        assert it.counters.drops == {
            "too long": 2,
            "no buffer space": 1,
            "interface down": 1,
        }


async def test_a_broken_source_is_reported_once(watched: Watched) -> None:
    error = ConnectionResetError(errno.ECONNRESET, "gone")
    with (
        Stub(numbered(1), broken=error) as source,
        Stub() as sink,
        Pumping(source, sink) as it,
    ):
        await turns()
        it.pump.flush()
        assert sink.taken == numbered(1)
        assert it.broken == [(source, error)]
        assert not {source.fileno(), sink.fileno()} & watched().keys()


@pytest.mark.parametrize("held", [False, True], ids=["at once", "after a pause"])
@pytest.mark.parametrize(
    "code", [errno.ECONNREFUSED, errno.ENOTCONN, errno.EPIPE, errno.EBADFD]
)
async def test_a_broken_sink_is_reported_once(
    watched: Watched, code: int, held: bool
) -> None:
    error = OSError(code, os.strerror(code))
    refusals: list[OSError | None] = [BlockingIOError(), error] if held else [error]
    with (
        Stub(numbered(2)) as source,
        Stub(refusals=refusals) as sink,
        Pumping(source, sink) as it,
    ):
        await turns()
        it.pump.flush()
        assert it.broken == [(sink, error)]
        assert it.counters == Counters(pauses=int(held))
        assert not {source.fileno(), sink.fileno()} & watched().keys()


async def test_a_plug_says_that_it_is_broken_without_an_errno() -> None:
    """The default errno of BrokenTransportError is EIO, a TAP's word for "down"."""
    error = BrokenTransportError("memory://lan", "the port is closed")
    with (
        Stub(numbered(1)) as source,
        Stub(refusals=[error]) as sink,
        Pumping(source, sink, PLUG_DROPS) as it,
    ):
        await turns()
        assert it.broken == [(sink, error)]
        assert it.counters.drops == {}


async def test_a_socket_whose_peer_is_gone_is_broken(
    make_pair: Callable[..., Pair],
) -> None:
    stack, source = make_pair(socket.SOCK_DGRAM)
    sink, network = make_pair(socket.SOCK_DGRAM)
    with Pumping(source, sink) as it:
        network.close()
        stack.send(b"x" * 60)
        await turns()
        [(end, error)] = it.broken
        assert end is sink
        assert isinstance(error, ConnectionRefusedError)


async def test_stop_and_stop_again(
    make_pair: Callable[..., Pair], watched: Watched
) -> None:
    stack, source = make_pair()
    sink, network = make_pair()
    with Pumping(source, sink) as it:
        await asyncio.sleep(0)  # now both loops have told the kernel
        assert source.fileno() in watched()
        it.pump.stop()
        it.pump.stop()
        assert not {source.fileno(), sink.fileno()} & watched().keys()
        stack.send(b"x" * 60)
        it.pump.flush()
        await turns()
        assert list(drained(network)) == []
        it.pump.start()
        await turns()
        assert list(drained(network)) == [b"x" * 60]


async def test_stop_while_paused_loses_the_held_frame(watched: Watched) -> None:
    again: list[OSError | None] = [BlockingIOError() for _ in range(4)]
    with (
        Stub(numbered(2)) as source,
        Stub(refusals=again) as sink,
        Pumping(source, sink) as it,
    ):
        it.pump.flush()
        await asyncio.sleep(0)  # now both loops have told the kernel
        assert sink.fileno() in watched()
        it.pump.stop()
        assert not {source.fileno(), sink.fileno()} & watched().keys()
        sink.refusals.clear()
        await turns()
        assert sink.taken == []
        it.pump.start()
        await turns()
        assert sink.taken == numbered(2)[1:]


async def test_stop_before_start() -> None:
    with Stub(numbered(1)) as source, Stub() as sink:
        it = Pumping(source, sink)
        it.pump.stop()
        it.pump.flush()
        assert sink.taken == []


async def test_two_pumps_on_the_same_descriptors() -> None:
    """As a link has them: one reads what the other writes to."""
    refusals: list[OSError | None] = [BlockingIOError()]
    with (
        Stub(numbered(100), refusals=[*refusals]) as device,
        Stub(numbered(100), refusals=[*refusals]) as plug,
        Pumping(device, plug) as sending,
        Pumping(plug, device) as receiving,
    ):
        await turns(20)
        assert device.taken == plug.taken == numbered(100)
        expected = Counters(frames=100, bytes=10000, pauses=1)
        assert sending.counters == receiving.counters == expected


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_stop_after_the_loop_was_closed(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    loop = new_loop()
    with Stub() as source, Stub() as sink:
        buffer = memoryview(bytearray(BUFFER_SIZE))
        pump = Pump(loop, source, sink, {}, Counters(), buffer, never)
        pump.start()
        loop.close()
        pump.stop()


class Keeping(Stub):
    """A sink that keeps frames until the wake-up ends, and loses what it kept."""

    skip = 0

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.merger = self
        self.error = error
        self.lost = self.lost_bytes = 0

    def finish(self) -> None:
        self.lost, self.lost_bytes = len(self.taken), sum(map(len, self.taken))
        self.taken.clear()


async def test_frames_that_were_kept_and_lost_are_drops() -> None:
    with (
        Stub(numbered(5)) as source,
        Keeping(OSError(errno.EIO, "down")) as sink,
        Pumping(source, sink) as it,
    ):
        await turns()
        assert (it.counters.frames, it.counters.bytes) == (0, 0)
        assert it.counters.drops == {"interface down": 5}
        assert it.broken == []


async def test_a_sink_that_breaks_when_it_writes_what_it_kept() -> None:
    error = OSError(errno.EBADFD, "gone")
    with (
        Stub(numbered(5)) as source,
        Keeping(error) as sink,
        Pumping(source, sink) as it,
    ):
        await turns()
        assert it.broken == [(sink, error)]
        assert it.counters.frames == 0


async def test_what_a_source_has_in_front_is_skipped() -> None:
    with Stub([b"header" + frame for frame in numbered(3)]) as source, Stub() as sink:
        source.skip = 6  # type: ignore[attr-defined]
        with Pumping(source, sink) as it:
            await turns()
            assert sink.taken == numbered(3)
            assert it.counters.bytes == 300


async def test_a_wake_up_moves_half_a_mebibyte_of_long_frames() -> None:
    assert BUDGET_BYTES == 1 << 19
    with (
        Stub(numbered(30, size=65536)) as source,
        Stub() as sink,
        Pumping(source, sink) as it,
    ):
        moved = []
        for _ in range(10):
            before = it.counters.frames
            await asyncio.sleep(0)
            moved.append(it.counters.frames - before)
        assert [count for count in moved if count] == [9, 9, 9, 3]
        assert sink.taken == numbered(30, size=65536)


async def test_headers_pass_and_are_not_counted() -> None:
    frames = [bytes(10) + frame for frame in numbered(3)]
    refusals: list[OSError | None] = [None, BlockingIOError()]
    with Stub([*frames]) as source, Stub(refusals=refusals) as sink:
        it = Pumping(source, sink)
        it.pump.carry_headers()
        with it:
            await turns()
            assert sink.taken == frames
            assert it.counters == Counters(frames=3, bytes=300, pauses=1)


class Writing(Stub):
    """A sink that can be written to at once."""

    def __init__(self) -> None:
        super().__init__()
        self.answer: OSError | None = None
        self.full = False

    def write(self, frame: memoryview, /) -> int | None:
        if self.answer is not None:
            raise self.answer
        return None if self.full else self.send(frame)


async def test_a_frame_that_is_delivered_at_once() -> None:
    frame = memoryview(bytes(10) + b"x" * 60)
    with Stub() as source, Writing() as sink:
        it = Pumping(source, sink)
        it.pump.carry_headers()
        assert not it.pump.deliver(frame)  # not started yet
        with it:
            assert it.pump.deliver(frame)
            assert sink.taken == [bytes(frame)]
            # Whatever is wrong is dealt with when it comes the usual way.
            sink.answer = OSError(errno.EBADFD, "gone")
            assert not it.pump.deliver(frame)
            sink.answer, sink.full = None, True
            assert not it.pump.deliver(frame)
            assert it.counters == Counters(frames=1, bytes=60)
            assert it.broken == []
            sink.full = False
            source.frames, sink.refusals = [bytes(frame)], [BlockingIOError()]
            it.pump.flush()
            assert not it.pump.deliver(frame)  # one is held, and goes first
        assert not it.pump.deliver(frame)
        assert len(sink.taken) == 1
