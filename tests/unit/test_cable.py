"""A cable between stub networks: frames, drops, carriers, and what is refused."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import aioioth
from aioioth import errors
from aioioth._pump import Counters

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

    from tests.unit.conftest import Pair, Watched

pytestmark = pytest.mark.usefixtures("_loop_is_content")


class StubPlug:
    """A plug made of sockets: frames, and the sign that we are wanted."""

    def __init__(self, frames: Pair, life: Pair, mtu: int = 1500) -> None:
        self.network, self._sock = frames
        self._life = life
        self.mtu = mtu
        self.drops: dict[str, int] = {}
        self.closed = 0
        self.recv_into: Callable[[memoryview], int] = self._sock.recv_into
        self.send: Callable[[Buffer], int] = self._sock.send

    def fileno(self) -> int:
        return self._sock.fileno()

    def hangup_fileno(self) -> int:
        return self._life[0].fileno()

    def hang_up(self) -> None:
        self._life[1].close()

    def close(self) -> None:
        self.closed += 1
        self._sock.close()
        self._life[0].close()

    def frames(self) -> list[bytes]:
        """Return what has arrived in the network."""
        arrived = []
        while True:
            try:
                arrived.append(self.network.recv(65536))
            except BlockingIOError:
                return arrived


class StubNetwork:
    """A transport that gives out plugs in order; then it waits for ever."""

    def __init__(self, *plugs: StubPlug) -> None:
        self.plugs = list(plugs)
        self.labels: list[str] = []

    async def open(self, label: str) -> StubPlug:
        self.labels.append(label)
        if not self.plugs:
            await asyncio.Event().wait()
        return self.plugs.pop(0)

    def __str__(self) -> str:
        return "stub://"


@pytest.fixture
def plug(make_pair: Callable[..., Pair]) -> Callable[..., StubPlug]:
    def make(mtu: int = 1500) -> StubPlug:
        return StubPlug(make_pair(socket.SOCK_DGRAM), make_pair(), mtu)

    return make


really_wait = asyncio.sleep


@pytest.fixture
def _no_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio, "sleep", lambda _: really_wait(0))


async def turns() -> None:
    for _ in range(10):
        await really_wait(0)


async def test_frames_go_both_ways(plug: Callable[..., StubPlug]) -> None:
    a, b = plug(), plug()
    networks = StubNetwork(a), StubNetwork(b)
    async with aioioth.Cable(*networks, name="joint") as cable:
        assert cable.name == "joint"
        assert cable.attached
        assert networks[0].labels == networks[1].labels == ["aioioth joint"]
        a.network.send(b"a" * 60)
        b.network.send(b"b" * 1514)
        await turns()
        assert b.frames() == [b"a" * 60]
        assert a.frames() == [b"b" * 1514]
        stats = cable.stats()
        assert stats.a_to_b == Counters(frames=1, bytes=60)
        assert stats.b_to_a == Counters(frames=1, bytes=1514)
        a.drops["queue full"] = 3
        assert cable.stats().a_to_b.drops == {"queue full": 3}
        assert stats.a_to_b.drops == {}
    assert a.closed == b.closed == 1


async def test_the_last_frames_go(plug: Callable[..., StubPlug]) -> None:
    a, b = plug(), plug()
    async with aioioth.Cable(StubNetwork(a), StubNetwork(b)):
        a.network.send(b"last words" * 6)
    assert b.frames() == [b"last words" * 6]


@pytest.mark.parametrize("wide_first", [True, False])
async def test_frames_too_long_for_the_other_side(
    plug: Callable[..., StubPlug], wide_first: bool
) -> None:
    wide, narrow = plug(9000), plug(1500)
    ends = (wide, narrow) if wide_first else (narrow, wide)
    async with aioioth.Cable(*(StubNetwork(end) for end in ends)) as cable:
        for length in 1514, 1518, 1519, 9018:
            wide.network.send(bytes(length))
        narrow.network.send(bytes(1518))
        await turns()
        assert [len(frame) for frame in narrow.frames()] == [1514, 1518]
        assert [len(frame) for frame in wide.frames()] == [1518]
        stats = cable.stats()
        there, back = stats.a_to_b, stats.b_to_a
        if not wide_first:
            there, back = back, there
        assert there == Counters(2, 1514 + 1518, {"too long": 2})
        assert back == Counters(1, 1518)


async def test_nothing_stands_between_networks_of_the_same_mtu(
    plug: Callable[..., StubPlug],
) -> None:
    a, b = plug(), plug()
    async with aioioth.Cable(StubNetwork(a), StubNetwork(b)) as cable:
        assert cable._running is not None
        for side, sink in (cable._running._a, b), (cable._running._b, a):
            assert side._pump is not None
            assert side._pump._sink is sink


async def test_a_full_narrow_side_pauses_the_pump(
    plug: Callable[..., StubPlug],
) -> None:
    wide, narrow = plug(9000), plug(1500)
    narrow._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    count, arrived, sent = 500, 0, 0
    async with aioioth.Cable(StubNetwork(wide), StubNetwork(narrow)) as cable:
        while arrived < count:
            while sent < count and sent < arrived + 50:
                wide.network.send(bytes(1000))
                sent += 1
            await turns()
            arrived += len(narrow.frames())
        stats = cable.stats().a_to_b
        assert (stats.frames, stats.drops) == (count, {})
        assert stats.pauses > 0


@pytest.mark.usefixtures("_no_time_passes")
@pytest.mark.parametrize("side", ["a", "b"])
async def test_a_side_that_goes_and_comes_back(
    plug: Callable[..., StubPlug], side: str
) -> None:
    lost, stays, again = plug(), plug(), plug()
    network, other = StubNetwork(lost), StubNetwork(stays)
    ends = (network, other) if side == "a" else (other, network)
    async with aioioth.Cable(*ends) as cable:
        events = cable.events()
        lost.hang_up()
        down = await anext(events)
        assert down == aioioth.CarrierDown(side, "the other side has ended")
        assert not cable.attached
        assert lost.closed == 1
        # What is for the side that is away is not kept until it is back.
        for number in range(300):
            stays.network.send(bytes([number % 256]) * 60)
            await turns()
        there = cable.stats().b_to_a if side == "a" else cable.stats().a_to_b
        assert there == Counters(drops={"no carrier": 300})
        network.plugs.append(again)
        # The attempt that waits for ever is given up, and the next one is made.
        assert cable._running is not None
        mine = cable._running._a if side == "a" else cable._running._b
        mine.attachment.pull_out()
        await mine.attachment.plug_in()
        stays.network.send(b"x" * 60)
        again.network.send(b"y" * 60)
        await turns()
        assert again.frames() == [b"x" * 60]
        assert stays.frames() == [b"y" * 60]
    assert lost.closed == stays.closed == again.closed == 1


@pytest.mark.usefixtures("_no_time_passes")
async def test_it_comes_back_by_itself(plug: Callable[..., StubPlug]) -> None:
    a, b, a_again, b_again = plug(), plug(), plug(), plug()
    ends = StubNetwork(a, a_again), StubNetwork(b, b_again)
    async with aioioth.Cable(*ends) as cable:
        events = cable.events()
        a.hang_up()
        b.hang_up()
        told = [await anext(events) for _ in range(4)]
        assert {(type(each), each.interface) for each in told} == {
            (kind, side)
            for kind in (aioioth.CarrierDown, aioioth.CarrierUp)
            for side in "ab"
        }
        assert cable.attached
        a_again.network.send(b"x" * 60)
        await turns()
        assert b_again.frames() == [b"x" * 60]


@pytest.mark.usefixtures("_no_time_passes")
@pytest.mark.parametrize("sender", ["a", "b"])
async def test_the_side_that_breaks_is_the_one_that_is_lost(
    plug: Callable[..., StubPlug], sender: str
) -> None:
    """Whichever pump notices: the sink of one is the source of the other."""
    a, b = plug(9000), plug(1500)
    source, sink = (a, b) if sender == "a" else (b, a)
    async with aioioth.Cable(StubNetwork(a), StubNetwork(b)) as cable:
        events = cable.events()
        sink.network.close()
        source.network.send(b"x" * 60)
        event = await anext(events)
        assert isinstance(event, aioioth.CarrierDown)
        assert event.interface == ("b" if sender == "a" else "a")
        assert sink.closed == 1
        assert source.closed == 0


@pytest.mark.usefixtures("_no_time_passes")
async def test_close_while_both_are_tried_again(
    plug: Callable[..., StubPlug], watched: Watched
) -> None:
    a, b = plug(), plug()
    before = asyncio.all_tasks()
    cable = await aioioth.Cable(StubNetwork(a), StubNetwork(b)).open()
    descriptors = {a.fileno(), b.fileno(), a.hangup_fileno(), b.hangup_fileno()}
    await turns()
    assert descriptors <= watched().keys()
    a.hang_up()
    b.hang_up()
    await turns()
    assert len(asyncio.all_tasks() - before) == 2
    cable.close()
    cable.close()
    await turns()
    assert asyncio.all_tasks() == before
    assert not descriptors & watched().keys()


async def test_a_network_that_cannot_be_reached(
    plug: Callable[..., StubPlug], tmp_path: Path
) -> None:
    a, again, b = plug(), plug(), plug()

    class Away(StubNetwork):
        async def open(self, label: str) -> StubPlug:
            if not self.labels:
                self.labels.append(label)
                raise errors.BrokenTransportError(str(self), "not there")
            return await super().open(label)

    cable = aioioth.Cable(StubNetwork(a, again), Away(b))
    with pytest.raises(errors.BrokenTransportError, match="not there"):
        await cable.open()
    assert a.closed == 1
    async with cable:  # it may be tried again
        assert cable.attached


async def test_its_life(plug: Callable[..., StubPlug]) -> None:
    cable = aioioth.Cable("null://", "memory://lan", name="c")
    assert repr(cable) == "<Cable 'c' between null:// and memory://lan, new>"
    with pytest.raises(errors.ClosedError, match="cable 'c' is not open: use"):
        cable.stats()
    async with cable:
        assert repr(cable) == "<Cable 'c' between null:// and memory://lan, open>"
        assert aioioth.stacks() == ()
        assert Path(cable.place.file).name == Path(__file__).name
        with pytest.raises(errors.BusyError, match="cable 'c' is open already"):
            await cable.open()

        async def elsewhere() -> None:
            with pytest.raises(errors.WrongLoopError, match="loop: use it there"):
                await cable.aclose()
            with pytest.raises(errors.WrongLoopError, match="loop: use it there"):
                cable.events()

        await asyncio.to_thread(asyncio.run, elsewhere())
        events = cable.events()
    assert [event async for event in events] == []
    await cable.aclose()
    for use in (cable.stats, cable.events, lambda: cable.attached):
        with pytest.raises(errors.ClosedError, match="cable 'c' is closed: make"):
            use()
    with pytest.raises(errors.ClosedError, match="cable 'c' is closed: make"):
        await cable.open()


async def test_closed_by_another_task_while_it_opens(
    plug: Callable[..., StubPlug],
) -> None:
    a, b = plug(), plug()
    go_on = asyncio.Event()

    class Slow(StubNetwork):
        async def open(self, label: str) -> StubPlug:
            await go_on.wait()
            return await super().open(label)

    cable = aioioth.Cable(StubNetwork(a), Slow(b))
    opening = asyncio.create_task(cable.open())
    await turns()
    await cable.aclose()
    go_on.set()
    with pytest.raises(errors.ClosedError):
        await opening
    assert a.closed
    assert b.closed


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("memory://a", "memory://a"),
        ("/tmp/sw", "vde:///tmp/sw"),
        (Path("/tmp/sw"), "/tmp/sw"),
    ],
    ids=str,
)
def test_the_same_network_twice(a: Any, b: Any) -> None:
    with pytest.raises(errors.ConfigurationError, match="make a loop"):
        aioioth.Cable(a, b)


def test_the_same_object_twice() -> None:
    switch = aioioth.Switch(name="one")
    with pytest.raises(errors.ConfigurationError, match="in one make a loop"):
        aioioth.Cable(switch, switch)
    aioioth.Cable(switch, aioioth.Switch(name="one"))  # another one, of the same name


def test_a_cable_has_no_interface() -> None:
    with pytest.raises(errors.ConfigurationError, match="leave the name out"):
        aioioth.Cable("eth0:memory://a", "memory://b")


@pytest.mark.parametrize("bad", [5, None, aioioth.Switch, "nope://x"])
def test_no_network(bad: Any) -> None:
    with pytest.raises(errors.ConfigurationError):
        aioioth.Cable("memory://a", bad)


def test_names_are_numbered() -> None:
    names = {aioioth.Cable("null://", "memory://x").name for _ in range(3)}
    assert len(names) == 3
    assert all(name.startswith("cable") for name in names)


def test_a_forgotten_cable_is_closed_and_named() -> None:
    async def main() -> aioioth.Cable:
        return await aioioth.Cable("null://", "memory://x", name="lost").open()

    with pytest.warns(errors.UnclosedCableWarning, match="cable 'lost' was never"):
        cable = asyncio.run(main())
    assert "closed" in repr(cable)


async def test_in_a_forked_child(plug: Callable[..., StubPlug]) -> None:
    """The child lets go of its copies, and the parent's cable goes on."""
    a, b = plug(), plug()
    async with aioioth.Cable(StubNetwork(a), StubNetwork(b)) as cable:
        await turns()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                assert a.fileno() == b.fileno() == -1
                with pytest.raises(errors.WrongLoopError, match="parent process: use"):
                    cable.stats()
                cable.close()
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        a.network.send(b"a" * 60)
        await turns()
        assert b.frames() == [b"a" * 60]
