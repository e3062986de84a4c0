from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from typing import TYPE_CHECKING, cast

import pytest

from aioioth._link import Link
from aioioth._pump import BUFFER_SIZE, Counters
from aioioth.errors import BrokenTransportError
from aioioth.events import CarrierDown, CarrierUp

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

    from aioioth._device import Device
    from aioioth.events import Event
    from tests.unit.conftest import Pair, Watched

pytestmark = pytest.mark.usefixtures("_loop_is_content")


class StubDevice:
    """A device made of one half of a pair of sockets; the other one is the stack."""

    kind = "tap"
    offloads = False

    def __init__(self, pair: Pair) -> None:
        self.stack, self._sock = pair
        self.carrier: list[bool] = []
        self.recv_into: Callable[[memoryview], int] = self._sock.recv_into
        self.send: Callable[[memoryview], int] = self._sock.send

    def fileno(self) -> int:
        return self._sock.fileno()

    def set_carrier(self, *, on: bool) -> None:
        self.carrier.append(on)

    def close(self) -> None:
        self._sock.close()


class DeletedDevice(StubDevice):
    """A device whose interface somebody has deleted."""

    def __init__(self, pair: Pair) -> None:
        super().__init__(pair)
        self.recv_into = self._gone

    @staticmethod
    def _gone(*_: object) -> int:
        raise OSError(errno.EBADFD, "File descriptor in bad state")


class StubPlug:
    """A plug made of two pairs of sockets: frames, and the sign that we are wanted."""

    mtu = 1500

    def __init__(self, frames: Pair, life: Pair | None) -> None:
        self.network, self._sock = frames
        self._life = life
        self.closed = 0
        self.recv_into: Callable[[memoryview], int] = self._sock.recv_into
        self.send: Callable[[Buffer], int] = self._sock.send

    def fileno(self) -> int:
        return self._sock.fileno()

    def hangup_fileno(self) -> int:
        return -1 if self._life is None else self._life[0].fileno()

    def hang_up(self) -> None:
        assert self._life is not None
        self._life[1].close()

    def close(self) -> None:
        self.closed += 1
        self._sock.close()
        if self._life is not None:
            self._life[0].close()


class StubTransport:
    """Gives out plugs, or raises, as it is told; then it waits for ever."""

    def __init__(self, *outcomes: StubPlug | BrokenTransportError) -> None:
        self.outcomes = list(outcomes)
        self.labels: list[str] = []

    async def open(self, label: str) -> StubPlug:
        self.labels.append(label)
        if not self.outcomes:
            await asyncio.Event().wait()
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, BrokenTransportError):
            raise outcome
        return outcome


class LinkOfStubs:
    """A link made of stubs, and the events that it tells."""

    def __init__(
        self,
        make_pair: Callable[..., Pair],
        *later: BrokenTransportError,
        device: type[StubDevice] = StubDevice,
        hangs_up: bool = True,
    ) -> None:
        """Make a link whose network comes back after ``later``."""
        self.first, self.second = (
            StubPlug(make_pair(socket.SOCK_DGRAM), make_pair() if hangs_up else None)
            for _ in range(2)
        )
        self.transport = StubTransport(*later, self.second)
        self.device = device(make_pair())
        self.events: list[Event] = []
        self.link = Link(
            "vde0",
            "aioioth web",
            cast("Device", self.device),
            self.transport,
            self.first,
            memoryview(bytearray(BUFFER_SIZE)),
            self.events.append,
        )

    def attached(self) -> bool:
        return self.link.attached

    async def until(self, *kinds: type[Event]) -> None:
        """Wait for events of these kinds, and for no others."""
        for _ in range(1000):
            if len(self.events) >= len(kinds):
                break
            await really_wait(0)
        assert [type(event) for event in self.events] == [*kinds]


really_wait = asyncio.sleep


@pytest.fixture
def delays(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let no time pass; return what would have been waited, each time."""
    waited: list[float] = []

    async def sleep(delay: float) -> None:
        waited.append(delay)
        await really_wait(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr("aioioth._attachment.random.uniform", lambda low, high: 1.0)
    return waited


def down(times: int) -> list[BrokenTransportError]:
    return [BrokenTransportError("vde:///tmp/sw", "no switch") for _ in range(times)]


async def turns() -> None:
    for _ in range(10):
        await really_wait(0)


async def test_frames_go_both_ways(make_pair: Callable[..., Pair]) -> None:
    it = LinkOfStubs(make_pair)
    assert it.attached()
    it.device.stack.send(b"out" * 20)
    it.first.network.send(b"back in" * 20)
    await turns()
    assert it.first.network.recv(2000) == b"out" * 20
    assert it.device.stack.recv(2000) == b"back in" * 20
    assert it.link.sent == Counters(frames=1, bytes=60)
    assert it.link.received == Counters(frames=1, bytes=140)
    it.link.close()
    assert it.events == []
    assert it.device.carrier == []
    assert it.transport.labels == []


async def test_flush_sends_at_once(make_pair: Callable[..., Pair]) -> None:
    it = LinkOfStubs(make_pair)
    it.device.stack.send(b"the last words of a connection")
    it.link.flush()
    assert it.first.network.recv(2000) == b"the last words of a connection"
    it.link.close()


async def test_close_gives_everything_back(
    make_pair: Callable[..., Pair], watched: Watched
) -> None:
    it = LinkOfStubs(make_pair)
    await turns()
    descriptors = {
        it.device.fileno(),
        it.first.fileno(),
        it.first.hangup_fileno(),
    }
    assert descriptors <= watched().keys()
    it.link.close()
    it.link.close()
    assert not it.attached()
    assert not descriptors & watched().keys()
    assert it.first.closed == 1
    assert it.device.fileno() == -1
    await turns()
    assert it.events == []
    it.link.flush()


async def test_a_network_that_hangs_up_and_comes_back(
    make_pair: Callable[..., Pair], delays: list[float]
) -> None:
    it = LinkOfStubs(make_pair)
    it.first.hang_up()
    await it.until(CarrierDown)
    assert not it.attached()
    assert it.first.closed == 1
    assert it.device.carrier == [False]
    await it.until(CarrierDown, CarrierUp)
    assert it.events == [
        CarrierDown("vde0", "the other side has ended"),
        CarrierUp("vde0", attempts=1),
    ]
    assert it.attached()
    assert it.device.carrier == [False, True]
    assert it.transport.labels == ["aioioth web"]
    it.device.stack.send(b"out again" * 10)
    it.second.network.send(b"in again" * 10)
    await turns()
    assert it.second.network.recv(2000) == b"out again" * 10
    assert it.device.stack.recv(2000) == b"in again" * 10
    assert it.link.sent.frames == it.link.received.frames == 1
    it.link.close()
    assert it.second.closed == 1
    assert it.first.closed == 1


async def test_counters_go_on_over_a_loss(
    make_pair: Callable[..., Pair], delays: list[float]
) -> None:
    it = LinkOfStubs(make_pair)
    it.device.stack.send(b"x" * 60)
    await turns()
    it.first.hang_up()
    await it.until(CarrierDown, CarrierUp)
    it.device.stack.send(b"x" * 60)
    await turns()
    assert it.link.sent == Counters(frames=2, bytes=120)
    it.link.close()


async def test_a_plug_that_breaks_when_used(
    make_pair: Callable[..., Pair], delays: list[float]
) -> None:
    it = LinkOfStubs(make_pair, hangs_up=False)
    it.first.network.close()
    it.device.stack.send(b"x" * 60)
    await it.until(CarrierDown, CarrierUp)
    assert isinstance(it.events[0], CarrierDown)
    assert os.strerror(errno.ECONNREFUSED) in it.events[0].cause
    assert it.device.carrier == [False, True]
    it.link.close()


async def test_frames_wait_in_the_device_while_there_is_no_network(
    make_pair: Callable[..., Pair], delays: list[float]
) -> None:
    it = LinkOfStubs(make_pair, *down(3))
    it.first.hang_up()
    await it.until(CarrierDown)
    it.device.stack.send(b"patience" * 10)
    await it.until(CarrierDown, CarrierUp)
    await turns()
    assert it.second.network.recv(2000) == b"patience" * 10
    it.link.close()


async def test_it_keeps_trying_ever_more_slowly(
    make_pair: Callable[..., Pair],
    delays: list[float],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "aioioth")
    it = LinkOfStubs(make_pair, *down(8))
    it.first.hang_up()
    await it.until(CarrierDown, CarrierUp)
    assert delays == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0])
    assert it.events[1] == CarrierUp("vde0", attempts=9)
    assert it.transport.labels == ["aioioth web"] * 9
    # Once a person should know, the rest is for those who ask.
    [loss] = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert "aioioth web: vde0 lost its network" in loss.getMessage()
    it.link.close()


async def test_delays_differ_from_stack_to_stack(
    make_pair: Callable[..., Pair],
    delays: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return high

    monkeypatch.setattr("aioioth._attachment.random.uniform", uniform)
    it = LinkOfStubs(make_pair, *down(1))
    it.first.hang_up()
    await it.until(CarrierDown, CarrierUp)
    assert asked == [(0.8, 1.2)] * 2
    assert delays == pytest.approx([0.12, 0.24])
    it.link.close()


@pytest.mark.parametrize(("working", "second"), [(0.0, 0.1), (60.0, 0.2)])
async def test_it_may_be_lost_again(
    make_pair: Callable[..., Pair],
    delays: list[float],
    monkeypatch: pytest.MonkeyPatch,
    working: float,
    second: float,
) -> None:
    monkeypatch.setattr("aioioth._attachment._WORKING_SECONDS", working)
    it = LinkOfStubs(make_pair)
    third = StubPlug(make_pair(socket.SOCK_DGRAM), make_pair())
    it.transport.outcomes.append(third)
    it.first.hang_up()
    await it.until(CarrierDown, CarrierUp)
    it.second.hang_up()
    await it.until(CarrierDown, CarrierUp, CarrierDown, CarrierUp)
    assert it.device.carrier == [False, True, False, True]
    # It is quick again after it has worked, and not if it ended at once.
    assert delays == pytest.approx([0.1, second])
    it.link.close()
    assert [plug.closed for plug in (it.first, it.second, third)] == [1, 1, 1]


@pytest.mark.parametrize("waiting", ["before it tries", "for the network"])
async def test_close_while_it_re_attaches_leaves_no_task(
    make_pair: Callable[..., Pair], delays: list[float], waiting: str
) -> None:
    it = LinkOfStubs(make_pair)
    it.transport.outcomes.clear()  # it waits for ever in open()
    before = asyncio.all_tasks()
    it.first.hang_up()
    await it.until(CarrierDown)
    [task] = asyncio.all_tasks() - before
    assert "re-attach vde0 of aioioth web" in task.get_name()
    if waiting == "for the network":
        await turns()
        assert it.transport.labels == ["aioioth web"]
    it.link.close()
    await turns()
    assert task.cancelled()
    assert asyncio.all_tasks() == before
    assert it.device.fileno() == -1
    assert len(it.events) == 1


async def test_a_deleted_interface_has_nothing_to_come_back_to(
    make_pair: Callable[..., Pair], caplog: pytest.LogCaptureFixture
) -> None:
    it = LinkOfStubs(make_pair, device=DeletedDevice)
    it.device.stack.send(b"x" * 60)  # it is readable
    await it.until(CarrierDown)
    await turns()
    [event] = it.events
    assert isinstance(event, CarrierDown)
    assert event.interface == "vde0"
    assert event.cause.startswith("the interface is gone")
    assert not it.attached()
    assert it.first.closed == 1
    assert it.transport.labels == []
    assert "interface vde0 is gone" in caplog.text
    it.link.close()


async def test_a_carrier_that_cannot_be_set_is_no_reason_to_give_up(
    make_pair: Callable[..., Pair],
    delays: list[float],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    it = LinkOfStubs(make_pair)

    def refuse(*, on: bool) -> None:
        raise OSError(errno.EBADFD, "File descriptor in bad state")

    monkeypatch.setattr(it.device, "set_carrier", refuse)
    it.first.hang_up()
    await it.until(CarrierDown, CarrierUp)
    assert it.attached()
    assert "carrier of vde0" in caplog.text
    it.link.close()
