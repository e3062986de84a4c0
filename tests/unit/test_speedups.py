"""The compiled step with a pump, and what it takes both ways."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import TYPE_CHECKING, Self

import pytest

from aioioth import _speedups
from aioioth._pump import BUFFER_SIZE, DEVICE_DROPS, PLUG_DROPS, Counters, Pump
from aioioth.wire.offload import VNET_HEADER
from tests.unit.segments import long_frame, run_of
from tests.unit.steps import (
    ALONE,
    BUILT,
    DROPS,
    Compiled,
    CompiledCutter,
    Ends,
    compiled,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioioth._pump import End

pytestmark = BUILT


@pytest.mark.parametrize(
    ("drops", "error"),
    [
        (["EIO"], TypeError),
        (7, TypeError),
        ([0], ValueError),
        ([-1], ValueError),
        ([1 << 70], OverflowError),
        (range(1, 40), ValueError),
    ],
)
def test_causes_of_drops_are_errnos(
    make_ends: Callable[[], Ends], drops: list[int], error: type[Exception]
) -> None:
    network, tap = make_ends().fileno(), make_ends().fileno()
    with pytest.raises(error):
        compiled.Sender(tap, network, drops)
    with pytest.raises(error):
        compiled.Receiver(network, tap, drops)


@pytest.mark.parametrize("size", [-1, 0, 13, 65555])
def test_sizes_of_frames(make_ends: Callable[[], Ends], size: int) -> None:
    with pytest.raises(ValueError, match="a frame has 14 to 65554 bytes"):
        compiled.Receiver(make_ends().fileno(), make_ends().fileno(), DROPS, size)


@pytest.mark.parametrize("budget", [0, -1])
def test_budgets_are_positive(
    receiving: Compiled, sending: CompiledCutter, budget: int
) -> None:
    for mover in (receiving.receiver, sending.sender):
        with pytest.raises(ValueError, match="1 or more"):
            mover.move(budget)
        with pytest.raises(TypeError):
            mover.move("64")  # type: ignore[arg-type]


# With a pump


class Pumping:
    """Two pumps with the compiled step, as a link makes them, and what they say."""

    def __init__(self, device: Ends, network: Ends) -> None:
        self.device, self.network = device, network
        self.sent, self.received = Counters(), Counters()
        self.broken: list[tuple[End, OSError]] = []
        self.sending = self._pump(device.near, network.near, PLUG_DROPS, self.sent)
        self.sending.use(
            _speedups.make_sender(device.fileno(), network.fileno(), PLUG_DROPS)
        )
        self.receiving = self._pump(
            network.near, device.near, DEVICE_DROPS, self.received
        )
        self.receiving.use(
            _speedups.make_receiver(
                network.fileno(), device.fileno(), DEVICE_DROPS, 1500
            )
        )

    def _pump(
        self, source: End, sink: End, causes: dict[int, str], counters: Counters
    ) -> Pump:
        return Pump(
            asyncio.get_running_loop(),
            source,
            sink,
            causes,
            counters,
            memoryview(bytearray(BUFFER_SIZE)),
            lambda end, error: self.broken.append((end, error)),
        )

    def __enter__(self) -> Self:
        self.sending.start()
        self.receiving.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.sending.stop()
        self.receiving.stop()


@pytest.fixture
async def pumping(make_ends: Callable[[], Ends], _loop_is_content: None) -> Pumping:
    return Pumping(make_ends(), make_ends())


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_both_sides_mean_the_same() -> None:
    assert (_speedups.FULL, _speedups.SOURCE_BROKEN, _speedups.SINK_BROKEN) == (
        compiled.FULL,
        compiled.SOURCE_BROKEN,
        compiled.SINK_BROKEN,
    )
    assert max(compiled.EMPTY, compiled.MORE) < _speedups.FULL


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIOIOTH_SPEEDUPS", raising=False)
    assert _speedups.are_there()
    monkeypatch.setenv("AIOIOTH_SPEEDUPS", "0")
    assert not _speedups.are_there()


async def test_a_pump_moves_and_counts(pumping: Pumping) -> None:
    with pumping as it:
        it.device.feed(long_frame(4, bytes(3000), 1000), ALONE + b"x" * 60)
        it.network.feed(*(each.frame() for each in run_of(5)))
        await turns()
        assert len(list(it.network.drain())) == 4
        assert len(list(it.device.drain())) == 1
        assert it.sent == Counters(frames=4, bytes=3 * 1066 + 60)
        assert it.received == Counters(frames=5, bytes=5 * 1514)
    assert it.broken == []


async def test_a_pump_waits_for_room(pumping: Pumping) -> None:
    pumping.network.near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    payload = os.urandom(40000)
    with pumping as it:
        it.device.feed(long_frame(4, payload, 1448), *[ALONE + b"x" * 60] * 3)
        await turns()
        assert it.sent.pauses == 1
        frames = list(it.network.drain())
        # What comes meanwhile is not read: it stays in the stack's queue.
        before = it.sent.frames
        it.sending.flush()
        assert it.sent.frames == before
        async with asyncio.timeout(10):
            while len(frames) < 28 + 3:
                await asyncio.sleep(0)
                frames += it.network.drain()
        assert b"".join(frame[66:] for frame in frames[:28]) == payload
        assert frames[28:] == [b"x" * 60] * 3
        await turns()
        assert it.sent.frames == 31
        assert it.sent.drops == {}


async def test_what_is_held_is_lost_with_the_network(pumping: Pumping) -> None:
    pumping.network.near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    with pumping as it:
        it.device.feed(long_frame(4, bytes(14480), 1448))
        await turns()
        sent = it.sent.frames
    assert it.sent.drops == {"no carrier": 10 - sent}
    it.sending.stop()
    assert it.sent.drops == {"no carrier": 10 - sent}


async def test_a_pump_names_drops(pumping: Pumping) -> None:
    with pumping as it:
        it.device.feed(b"short", VNET_HEADER.pack(0, 9, 0, 0, 0, 0) + bytes(60))
        it.network.feed(bytes(1523), bytes(1522))  # with two VLAN tags
        await turns()
    assert it.sent == Counters(drops={"malformed": 2})
    assert it.received == Counters(frames=1, bytes=1522, drops={"too long": 1})


@pytest.mark.parametrize("paused", [False, True])
async def test_a_pump_tells_that_its_sink_is_broken(
    make_ends: Callable[..., Ends], *, paused: bool
) -> None:
    it = Pumping(make_ends(), make_ends(socket.SOCK_SEQPACKET))
    it.network.near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    with it:
        it.receiving.stop()
        if paused:
            it.device.feed(long_frame(4, bytes(14480), 1448))
            await turns()
        assert it.sent.pauses == paused
        it.network.far.close()
        it.device.feed(ALONE + bytes(60))
        await turns()
        [(end, error)] = it.broken
        assert end is it.network.near
        assert error.errno in {errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN}
        await turns()
    assert len(it.broken) == 1


async def test_a_pump_tells_that_its_source_is_broken(
    make_ends: Callable[..., Ends],
) -> None:
    with Pumping(make_ends(), make_ends(socket.SOCK_SEQPACKET)) as it:
        it.network.feed(b"x" * 60)
        it.network.far.close()
        await turns()
        [(end, error)] = it.broken
        assert end is it.network.near
        assert error.errno == errno.ECONNRESET
        assert it.received == Counters(frames=1, bytes=60)


async def test_a_pump_that_forgets(pumping: Pumping) -> None:
    with pumping as it:
        it.device.feed(ALONE + bytes(60))
        it.sending.forget()
        await turns()
        assert list(it.network.drain()) == []
        asyncio.get_running_loop().remove_reader(it.device.near)  # as the parent does
