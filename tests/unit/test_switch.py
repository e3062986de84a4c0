from __future__ import annotations

import asyncio
import errno
import os
import select
import sys
import threading
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from typing import TYPE_CHECKING

import pytest

import aioioth
from aioioth import abc
from aioioth.errors import BrokenTransportError
from aioioth.switch import Switch, SwitchPort

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

A, B, C = (bytes.fromhex(f"02000000000{digit}") for digit in "abc")
EVERYBODY = b"\xff" * 6
GROUP = bytes.fromhex("01005e000001")


def frame(to: bytes, by: bytes, payload: bytes = b"") -> bytes:
    return to + by + b"\x88\xb5" + payload


@asynccontextmanager
async def ports(switch: Switch, number: int) -> AsyncIterator[list[SwitchPort]]:
    opened = [await switch.open(f"port {index}") for index in range(number)]
    try:
        yield opened
    finally:
        for port in opened:
            port.close()


def received(port: SwitchPort) -> list[bytes]:
    buffer = memoryview(bytearray(65536 + 18))
    frames = []
    while True:
        try:
            frames.append(bytes(buffer[: port.recv_into(buffer)]))
        except BlockingIOError:
            return frames


def readable(port: SwitchPort) -> bool:
    return select.select([port.fileno()], [], [], 0)[0] != []


class Clock:
    """Stands in for the module `time` of the switch."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("aioioth.switch.time", clock)
    return clock


@contextmanager
def threads_change_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


async def test_it_is_what_plug_ins_are() -> None:
    switch = Switch("lab")
    assert isinstance(switch, abc.FrameTransport)
    assert str(switch) == "lab"
    async with ports(switch, 1) as [port]:
        assert isinstance(port, abc.Plug)
        assert port.label == "port 0"
        assert port.mtu == 65517
        assert port.hangup_fileno() == -1
    assert aioioth.Switch is Switch


async def test_an_unknown_destination_is_flooded_but_not_to_the_sender() -> None:
    async with ports(Switch(), 3) as [one, two, three]:
        data = frame(to=B, by=A)
        assert one.send(data) == len(data)
        assert received(one) == []
        assert received(two) == received(three) == [data]


@pytest.mark.parametrize("to", [EVERYBODY, GROUP])
async def test_groups_are_flooded_even_if_somebody_sends_as_one(to: bytes) -> None:
    async with ports(Switch(), 3) as [one, two, three]:
        three.send(frame(to=A, by=to))  # must not be learned
        received(one)
        received(two)
        one.send(frame(to=to, by=A))
        assert received(one) == []
        assert received(two) == received(three) == [frame(to=to, by=A)]


async def test_a_known_destination_gets_it_alone() -> None:
    async with ports(Switch(), 3) as [one, two, three]:
        two.send(frame(to=EVERYBODY, by=B))
        assert received(one) == received(three) == [frame(to=EVERYBODY, by=B)]
        one.send(frame(to=B, by=A))
        assert received(two) == [frame(to=B, by=A)]
        assert received(one) == received(three) == []


async def test_no_frame_goes_back_where_it_came_from() -> None:
    async with ports(Switch(), 2) as [one, two]:
        one.send(frame(to=EVERYBODY, by=A))
        one.send(frame(to=EVERYBODY, by=B))
        received(two)
        one.send(frame(to=B, by=A))  # both are on port one
        assert received(one) == received(two) == []


async def test_an_address_may_move() -> None:
    async with ports(Switch(), 3) as [one, two, three]:
        two.send(frame(to=EVERYBODY, by=B))
        three.send(frame(to=EVERYBODY, by=B))
        for port in (one, two, three):
            received(port)
        one.send(frame(to=B, by=A))
        assert received(three) == [frame(to=B, by=A)]
        assert received(two) == []


async def test_an_address_is_forgotten_after_300_seconds(clock: Clock) -> None:
    async with ports(Switch(), 3) as [one, two, three]:
        two.send(frame(to=A, by=B))
        received(one)
        received(three)
        clock.now += 299.9
        one.send(frame(to=B, by=A, payload=b"known"))
        assert received(three) == []
        clock.now += 0.1
        one.send(frame(to=B, by=A, payload=b"forgotten"))
        assert received(three) == [frame(to=B, by=A, payload=b"forgotten")]
        assert len(received(two)) == 2


async def test_every_frame_makes_an_address_young_again(clock: Clock) -> None:
    async with ports(Switch(), 3) as [one, two, three]:
        for _ in range(10):
            two.send(frame(to=A, by=B))
            clock.now += 200
        received(three)
        one.send(frame(to=B, by=A))
        assert received(three) == []


async def test_the_table_is_bounded() -> None:
    async with ports(Switch(), 3) as [one, two, three]:
        for number in range(8192):
            one.send(frame(to=EVERYBODY, by=b"\x02\xff" + number.to_bytes(4, "big")))
        two.send(frame(to=EVERYBODY, by=B))  # one too many
        for port in (one, two, three):
            received(port)
        three.send(frame(to=B, by=C))
        assert received(one) == received(two) == [frame(to=B, by=C)]
        # Who was there before is still known.
        two.send(frame(to=b"\x02\xff\0\0\0\0", by=B))
        assert received(three) == []


async def test_a_flood_of_addresses_is_forgotten_in_the_end(clock: Clock) -> None:
    async with ports(Switch(), 3) as [one, two, three]:
        for number in range(8192):
            one.send(frame(to=EVERYBODY, by=b"\x02\xff" + number.to_bytes(4, "big")))
        clock.now += 301
        two.send(frame(to=EVERYBODY, by=B))
        for port in (one, two, three):
            received(port)
        three.send(frame(to=B, by=C))
        assert received(two) == [frame(to=B, by=C)]
        assert received(one) == []


async def test_unplugging_forgets() -> None:
    switch = Switch()
    async with ports(switch, 3) as [one, two, three]:
        two.send(frame(to=EVERYBODY, by=B))
        received(three)
        two.close()
        assert list(switch.ports) == [one, three]
        one.send(frame(to=B, by=A))
        assert received(three) == [frame(to=B, by=A)]
    assert list(switch.ports) == []


async def test_ports_are_listed_oldest_first() -> None:
    switch = Switch()
    async with ports(switch, 3) as opened:
        assert switch.ports == tuple(opened)
        assert [port.label for port in switch.ports] == ["port 0", "port 1", "port 2"]


async def test_a_full_queue_drops_and_counts() -> None:
    async with ports(Switch(), 2) as [one, two]:
        for number in range(2050):
            one.send(frame(to=B, by=A, payload=number.to_bytes(2, "big")))
        assert two.drops == {"queue full": 2}
        assert one.drops == {}
        arrived = received(two)
        assert [int.from_bytes(data[14:], "big") for data in arrived] == [*range(2048)]
        one.send(frame(to=B, by=A))
        assert received(two) == [frame(to=B, by=A)]


@pytest.mark.parametrize("length", [0, 1, 13])
async def test_what_is_no_frame_is_not_forwarded(length: int) -> None:
    seen: list[bytes] = []
    switch = Switch()
    switch.watch(seen.append)
    async with ports(switch, 2) as [one, two]:
        assert one.send(bytes(length)) == length
        assert received(two) == seen == []
        shortest = frame(to=B, by=A)
        one.send(shortest)
        assert received(two) == seen == [shortest]


async def test_a_frame_may_be_as_long_as_a_buffer() -> None:
    async with ports(Switch(), 2) as [one, two]:
        longest = frame(to=B, by=A, payload=bytes(one.mtu + 4))
        one.send(longest)
        assert received(two) == [longest]


async def test_a_frame_longer_than_that_is_refused() -> None:
    """It would not fit into the receiver's buffer, and be raised into its loop."""
    async with ports(Switch(), 2) as [one, two]:
        with pytest.raises(OSError) as caught:
            one.send(frame(to=B, by=A, payload=bytes(70000)))
        assert caught.value.errno == errno.EMSGSIZE
        assert received(two) == []


async def test_the_senders_buffer_may_be_used_again() -> None:
    async with ports(Switch(), 2) as [one, two]:
        buffer = bytearray(frame(to=B, by=A, payload=b"first"))
        one.send(memoryview(buffer))
        buffer[14:] = b"other"
        assert received(two) == [frame(to=B, by=A, payload=b"first")]


async def test_readable_while_frames_wait() -> None:
    async with ports(Switch(), 2) as [one, two]:
        buffer = memoryview(bytearray(2000))
        assert not readable(two)
        with pytest.raises(BlockingIOError):
            two.recv_into(buffer)
        for _ in range(2):
            one.send(frame(to=B, by=A))
        assert readable(two)
        assert two.recv_into(buffer) == 14
        assert readable(two)
        assert two.recv_into(buffer) == 14
        with pytest.raises(BlockingIOError):
            two.recv_into(buffer)
        assert not readable(two)
        assert not readable(one)
        one.send(frame(to=B, by=A))
        assert readable(two)


async def test_a_closed_port() -> None:
    async with ports(Switch("lab"), 2) as [one, two]:
        number = one.fileno()
        one.send(frame(to=B, by=A))
        one.close()
        one.close()
        assert one.fileno() == -1
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(number)
        with pytest.raises(BrokenTransportError, match="lab: the port is closed"):
            one.send(frame(to=B, by=A))
        with pytest.raises(OSError) as caught:
            one.recv_into(memoryview(bytearray(2000)))
        assert not isinstance(caught.value, BlockingIOError)
        two.send(frame(to=A, by=B))  # nobody is there, nobody minds
        assert received(two) == [frame(to=B, by=A)]


async def test_watch_sees_each_frame_once() -> None:
    switch = Switch()
    async with ports(switch, 3) as [one, two, _]:
        seen: list[bytes] = []
        unwatch = switch.watch(seen.append)
        one.send(frame(to=EVERYBODY, by=A))
        two.send(frame(to=A, by=B))
        assert seen == [frame(to=EVERYBODY, by=A), frame(to=A, by=B)]
        unwatch()
        unwatch()
        one.send(frame(to=EVERYBODY, by=A))
        assert len(seen) == 2


async def test_watchers_do_not_end_each_other() -> None:
    switch = Switch()
    async with ports(switch, 2) as [one, _]:
        seen: list[bytes] = []
        watcher: Callable[[bytes], object] = seen.append
        first, second = switch.watch(watcher), switch.watch(watcher)
        first()
        first()
        one.send(frame(to=EVERYBODY, by=A))
        assert len(seen) == 1
        second()
        one.send(frame(to=EVERYBODY, by=A))
        assert len(seen) == 1


class Arrivals:
    """Frames of a port, on the loop and in the thread that this is made in."""

    def __init__(self, port: SwitchPort) -> None:
        self._port = port
        self._ready = asyncio.Event()
        asyncio.get_running_loop().add_reader(port.fileno(), self._ready.set)

    async def next(self, number: int) -> list[bytes]:
        frames: list[bytes] = []
        while len(frames) < number:
            frames += received(self._port)
            if len(frames) < number:
                self._ready.clear()
                await self._ready.wait()
        return frames

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._port.fileno())


async def test_two_loops_in_two_threads() -> None:
    rounds, burst = 50, 100

    def frames(to: bytes, by: bytes, number: int) -> list[bytes]:
        first = number * burst
        return [
            frame(to, by, index.to_bytes(4, "big"))
            for index in range(first, first + burst)
        ]

    async def play(port: SwitchPort, me: bytes, other: bytes, *, begin: bool) -> int:
        arrivals = Arrivals(port)
        total = 0
        try:
            async with asyncio.timeout(30):
                for number in range(rounds):
                    if begin:
                        for data in frames(other, me, number):
                            port.send(data)
                    arrived = await arrivals.next(burst)
                    assert arrived == frames(me, other, number)
                    total += len(arrived)
                    if not begin:
                        for data in frames(other, me, number):
                            port.send(data)
        finally:
            arrivals.close()
        return total

    async with ports(Switch(), 2) as [one, two]:
        with threads_change_often():
            totals = await asyncio.gather(
                asyncio.to_thread(asyncio.run, play(one, A, B, begin=True)),
                asyncio.to_thread(asyncio.run, play(two, B, A, begin=False)),
            )
        await asyncio.get_running_loop().shutdown_default_executor()
        assert sum(totals) == 2 * rounds * burst == 10_000
        assert one.drops == two.drops == {}


def in_threads(*bodies: Callable[[], None]) -> list[BaseException]:
    """Run each in a thread of its own, and return what they raise."""
    raised: list[BaseException] = []
    start = threading.Barrier(len(bodies))

    def run(body: Callable[[], None]) -> None:
        start.wait()
        try:
            body()
        except BaseException as error:  # noqa: BLE001  (handed to the caller)
            raised.append(error)

    threads = [threading.Thread(target=run, args=[body]) for body in bodies]
    with threads_change_often():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return raised


def test_threads_come_and_go_while_others_send() -> None:
    switch = Switch()
    done = threading.Event()

    def send() -> None:
        async def body() -> None:
            async with ports(switch, 1) as [port]:
                for number in count():
                    port.send(
                        frame(B, b"\x02\xff" + (number % 4096).to_bytes(4, "big"))
                    )
                    if done.is_set():
                        return

        asyncio.run(body())

    def come_and_go() -> None:
        async def body() -> None:
            for _ in range(300):
                async with ports(switch, 1) as [port]:
                    received(port)

        try:
            asyncio.run(body())
        finally:
            done.set()

    assert in_threads(send, come_and_go) == []
    assert switch.ports == ()
