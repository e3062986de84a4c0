from __future__ import annotations

import asyncio
import errno
import os
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from aioioth import abc
from aioioth.nested import NestedPlug, NestedTransport
from aioioth.networks import Network
from aioioth.wire.vlan import VlanTranslator

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from typing_extensions import Buffer

FRAME = b"\xff" * 6 + bytes.fromhex("020000000001 88b5") + b"hello"


class Inner:
    """A plug that plays what it is told, and remembers what it was sent."""

    mtu = 1500

    def __init__(self) -> None:
        self.waiting: list[bytes | OSError | None] = []
        self.taken: list[bytes] = []
        self.answers: list[OSError | None] = []
        self.closed = 0
        self.events: list[str] = []

    def fileno(self) -> int:
        return 1001

    def hangup_fileno(self) -> int:
        return 1002

    def recv_into(self, buffer: memoryview) -> int | None:
        if not self.waiting:
            raise BlockingIOError
        item = self.waiting.pop(0)
        if isinstance(item, OSError):
            raise item
        if item is None:
            return None
        buffer[: len(item)] = item
        return len(item)

    def send(self, frame: Buffer) -> int | None:
        if self.answers:
            answer = self.answers.pop(0)
            if answer is None:
                return None
            raise answer
        self.taken.append(bytes(frame))
        return memoryview(frame).nbytes

    def close(self) -> None:
        self.closed += 1
        self.events.append("plug")


class InnerWithMore(Inner):
    drops: Mapping[str, int] = {"queue full": 2, "odd": 1}

    def room_fileno(self) -> int:
        return 1003


class Reversed:
    """Turns frames around, and those with an X in them away."""

    def __init__(self, events: list[str] | None = None) -> None:
        self.drops = Counter[str]()
        self.events = [] if events is None else events

    def outgoing(self, frame: memoryview) -> Buffer | None:
        data = bytes(frame)
        return None if b"X" in data else data[::-1]

    def incoming(self, frame: memoryview) -> Buffer | None:
        data = bytes(frame)
        if b"X" in data:
            self.drops["odd"] += 1
            return None
        return data[::-1]

    def close(self) -> None:
        self.events.append("transform")


class Watching(Reversed):
    """Passes all, and sees what went."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[bytes] = []

    def outgoing(self, frame: memoryview) -> Buffer | None:
        return frame

    def incoming(self, frame: memoryview) -> Buffer | None:
        return frame

    def sent(self, frame: memoryview) -> None:
        self.seen.append(bytes(frame))


class Transport:
    """Opens the inner plug, or does not."""

    def __init__(self, answer: Inner | BaseException) -> None:
        self._answer = answer

    async def open(self, label: str) -> Inner:
        await asyncio.sleep(0)
        if isinstance(self._answer, BaseException):
            raise self._answer
        return self._answer


def nested(
    answer: Inner | BaseException, transform: Callable[[], Reversed], overhead: int = 0
) -> NestedTransport:
    return NestedTransport(
        Network(None, "x://", Transport(answer)), transform, overhead
    )


@pytest.fixture
def buffer() -> memoryview:
    return memoryview(bytearray(2000))


async def test_what_a_nested_transport_is() -> None:
    inner = Inner()
    transport = nested(inner, Reversed, overhead=30)
    assert isinstance(transport, abc.FrameTransport)
    plug = await transport.open("me")
    assert isinstance(plug, abc.Plug)
    assert plug.mtu == 1470
    assert plug.fileno() == 1001
    assert plug.hangup_fileno() == 1002
    assert plug.room_fileno() == 1001
    assert plug.drops == {}


def test_frames_are_changed_both_ways(buffer: memoryview) -> None:
    inner = Inner()
    plug = NestedPlug(inner, Reversed(), 0)
    assert plug.send(FRAME) == len(FRAME)
    assert inner.taken == [FRAME[::-1]]
    inner.waiting = [FRAME]
    assert plug.recv_into(buffer) == len(FRAME)
    assert bytes(buffer[: len(FRAME)]) == FRAME[::-1]


def test_frames_that_are_not_passed_on(buffer: memoryview) -> None:
    inner = Inner()
    plug = NestedPlug(inner, Reversed(), 0)
    with pytest.raises(OSError) as caught:
        plug.send(b"X")
    assert caught.value.errno == errno.ENOMSG
    assert inner.taken == []
    inner.waiting = [b"X", b"X", FRAME, b"X"]
    assert plug.recv_into(buffer) == len(FRAME)
    assert plug.drops == {"odd": 2}
    with pytest.raises(BlockingIOError):
        plug.recv_into(buffer)
    assert plug.drops == {"odd": 3}


def test_what_the_inner_network_lost_counts_too(buffer: memoryview) -> None:
    inner = InnerWithMore()
    plug = NestedPlug(inner, Reversed(), 0)
    assert plug.drops == {"queue full": 2, "odd": 1}
    inner.waiting = [b"X", FRAME]
    plug.recv_into(buffer)
    assert plug.drops == {"queue full": 2, "odd": 2}
    assert inner.drops == {"queue full": 2, "odd": 1}
    assert plug.room_fileno() == 1003


def test_the_inner_network_speaks_for_itself(buffer: memoryview) -> None:
    inner = Inner()
    plug = NestedPlug(inner, Reversed(), 0)
    gone = ConnectionResetError("gone")
    inner.waiting = [None, gone]
    assert plug.recv_into(buffer) is None
    with pytest.raises(ConnectionResetError):
        plug.recv_into(buffer)
    inner.answers = [None, BlockingIOError(), OSError(errno.ENOBUFS, "full")]
    assert plug.send(FRAME) is None
    with pytest.raises(BlockingIOError):
        plug.send(FRAME)
    with pytest.raises(OSError) as caught:
        plug.send(FRAME)
    assert caught.value.errno == errno.ENOBUFS


def test_only_what_was_taken_was_sent() -> None:
    inner, transform = Inner(), Watching()
    plug = NestedPlug(inner, transform, 0)
    inner.answers = [None, BlockingIOError(), OSError(errno.ENOBUFS, "full")]
    assert plug.send(FRAME) is None
    for _ in range(2):
        with pytest.raises(OSError):
            plug.send(FRAME)
    assert transform.seen == []
    plug.send(FRAME)
    assert transform.seen == inner.taken == [FRAME]


def test_a_flood_of_what_is_filtered_does_not_keep_the_loop(
    buffer: memoryview,
) -> None:
    inner = Inner()
    plug = NestedPlug(inner, Reversed(), 0)
    # Also if a few frames in it are good: then a pump comes back at once.
    inner.waiting = [*([b"X"] * 15 + [FRAME]) * 20]
    received = 0
    with pytest.raises(BlockingIOError):
        while plug.recv_into(buffer):
            received += 1
    assert received == 4
    assert len(inner.waiting) == 320 - 64 - 4


def test_a_frame_that_grows_out_of_the_buffer(buffer: memoryview) -> None:
    inner = Inner()
    plug = NestedPlug(inner, VlanTranslator(outside_untagged=5), 4)
    inner.waiting = [FRAME.ljust(1997), FRAME.ljust(1996)]
    assert plug.recv_into(buffer) == 2000
    assert plug.drops == {"too long": 1}


@given(st.lists(st.binary(max_size=100)), st.integers(100, 110))
def test_any_bytes(frames: list[bytes], size: int) -> None:
    inner, buffer = Inner(), memoryview(bytearray(size))
    plug = NestedPlug(inner, VlanTranslator(outside_untagged=5, trunk=True), 4)
    inner.waiting = [*frames]
    received = 0
    while inner.waiting:
        try:
            length = plug.recv_into(buffer)
        except BlockingIOError:
            continue
        assert length is not None
        assert 14 <= length <= size
        received += 1
    assert received + sum(plug.drops.values()) == len(frames)


def test_the_network_is_left_before_the_transform_is_closed() -> None:
    inner = Inner()
    plug = NestedPlug(inner, Reversed(inner.events), 0)
    plug.close()
    assert inner.events == ["plug", "transform"]
    plug.close()
    assert inner.closed == 2  # idempotent is everybody's own business
    assert "Reversed" in repr(plug)
    assert "Inner" in repr(plug)


@pytest.mark.parametrize(
    "error", [ConnectionRefusedError("no"), asyncio.CancelledError(), ValueError("bug")]
)
async def test_no_transform_is_left_when_there_is_no_network(
    error: BaseException,
) -> None:
    events: list[str] = []
    with pytest.raises(type(error)):
        await nested(error, lambda: Reversed(events)).open("me")
    assert events == ["transform"]


async def test_cancelled_while_the_network_is_reached() -> None:
    inner = Inner()
    task = asyncio.create_task(nested(inner, lambda: Reversed(inner.events)).open("me"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert inner.events == ["transform"]


async def test_a_transform_that_cannot_be_made() -> None:
    def refuse() -> Reversed:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    inner = Inner()
    with pytest.raises(FileNotFoundError):
        await nested(inner, refuse).open("me")
    assert inner.events == []


async def test_each_plug_has_a_transform_of_its_own() -> None:
    made: list[Reversed] = []

    def make() -> Reversed:
        made.append(Reversed())
        return made[-1]

    transport = nested(Inner(), make)
    assert made == []
    await transport.open("one")
    await transport.open("two")
    assert len(made) == 2
