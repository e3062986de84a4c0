"""Networks of single frames, with the compiled step and without: the same must hold.

Needs vde_switch.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

import aioioth
from aioioth import _speedups
from tests.interop.conftest import (  # noqa: F401  (fixtures)
    PATIENCE,
    home,
    vde_switch,
)
from tests.kernel.traffic import (
    DATA,
    ONE,
    RECEIVED,
    TWO,
    counted,
    transfer,
    wrong_checksums,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.interop.conftest import VdeSwitch

HOSTS = pytest.mark.parametrize("host", ["10.0.0.{}", "fd00::{}"], ids=["v4", "v6"])


@pytest.fixture(autouse=True, params=["python", "compiled"])
def step(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "python":
        monkeypatch.setenv("AIOIOTH_SPEEDUPS", "0")
        return "python"
    monkeypatch.delenv("AIOIOTH_SPEEDUPS", raising=False)
    if not _speedups.are_there():
        pytest.skip("the compiled step is not installed: pip install ./speedups")
    return "compiled"


@asynccontextmanager
async def both(
    here: str, there: str
) -> AsyncIterator[tuple[aioioth.Stack, aioioth.Stack]]:
    async with aioioth.Stack(here, ip=ONE) as one, aioioth.Stack(there, ip=TWO) as two:
        yield one, two


@HOSTS
async def test_both_ways_at_once(
    vde_switch: VdeSwitch,  # noqa: F811
    host: str,
    step: str,
) -> None:
    async with both(vde_switch.vnl, vde_switch.vnl) as (one, two):
        async with asyncio.TaskGroup() as group:
            group.create_task(transfer(one, two, host.format(2)))
            group.create_task(transfer(two, one, host.format(1)))
        for stack in (one, two):
            assert await wrong_checksums(stack) == 0
            traffic = stack.stats()["vde0"]
            # What is counted is what is on the wire.
            assert len(DATA) < traffic.sent.bytes < traffic.sent.frames * 1514
            assert len(DATA) < traffic.received.bytes < traffic.received.frames * 1514
            assert traffic.sent.drops == {}


async def test_few_frames_enter_a_stack(
    vde_switch: VdeSwitch,  # noqa: F811
    step: str,
) -> None:
    async with both(vde_switch.vnl, vde_switch.vnl) as (one, two):
        await transfer(one, two, "10.0.0.2")
        frames = two.stats()["vde0"].received.frames
        assert frames > len(DATA) / 1500
        # In Python nothing is joined for a packet socket.
        if step == "compiled" or two.interfaces["vde0"].device == "tap":
            assert (await counted(two))[RECEIVED] < frames / 2


@HOSTS
@pytest.mark.parametrize("size", [1, 1400, 9000])
async def test_datagrams_have_their_checksums(
    vde_switch: VdeSwitch,  # noqa: F811
    host: str,
    size: int,
) -> None:
    class Receiver(asyncio.DatagramProtocol):
        def __init__(self) -> None:
            self.arrived: asyncio.Queue[bytes] = asyncio.Queue()

        def datagram_received(self, data: bytes, _: object) -> None:
            self.arrived.put_nowait(data)

    async with both(vde_switch.vnl, vde_switch.vnl) as (one, two):
        sink, receiver = await two.create_datagram_endpoint(
            Receiver, local_addr=(host.format(2), 7)
        )
        source, _ = await one.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=(host.format(2), 7)
        )
        data = bytes(range(256)) * 36
        source.sendto(data[:size])
        async with asyncio.timeout(PATIENCE):
            assert await receiver.arrived.get() == data[:size]
        assert (await counted(two))["Udp", "InCsumErrors"] == 0
        for transport in (source, sink):
            transport.close()


@asynccontextmanager
async def congested(switch: VdeSwitch, stack: aioioth.Stack) -> AsyncIterator[None]:
    """Have a switch that does not read, and a stack whose frames wait for it."""
    switch.signal(signal.SIGSTOP)
    try:
        with stack.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            async with asyncio.timeout(PATIENCE):
                while not stack.stats()["vde0"].sent.pauses:
                    with contextlib.suppress(BlockingIOError):
                        sock.sendto(bytes(1000), ("10.0.0.255", 7))
                    await asyncio.sleep(0)
        yield
    finally:
        switch.signal(signal.SIGCONT)


@HOSTS
async def test_a_switch_that_does_not_read_is_waited_for(
    vde_switch: VdeSwitch,  # noqa: F811
    host: str,
) -> None:
    async with both(vde_switch.vnl, vde_switch.vnl) as (one, two):
        async with asyncio.TaskGroup() as group:
            group.create_task(transfer(one, two, host.format(2)))
            async with congested(vde_switch, one):
                pass
        assert one.stats()["vde0"].sent.drops == {}


class Wire:
    """Carries frames between two seqpacket networks, and damages some one way."""

    def __init__(self, damage: int) -> None:
        self.vnls: list[str] = []
        self._number = 0
        self._ends: list[socket.socket] = []
        self._theirs: list[socket.socket] = []
        for _ in range(2):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.setblocking(False)
            self._ends.append(ours)
            self._theirs.append(theirs)
            self.vnls.append(f"seqpacket://{theirs.fileno()}")
        one, two = self._ends
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(one, self._carry, one, two, damage)
        self._loop.add_reader(two, self._carry, two, one, 0)

    def _carry(self, source: socket.socket, sink: socket.socket, damage: int) -> None:
        for _ in range(64):
            try:
                frame = bytearray(source.recv(65536))
                if damage and len(frame) > 1000:
                    self._number += 1
                    if self._number % damage == 0:
                        frame[-10] ^= 0xFF
                sink.send(frame)
            except BlockingIOError:
                return

    def close(self) -> None:
        for each in self._ends:
            self._loop.remove_reader(each)
        for each in (*self._ends, *self._theirs):
            each.close()


@pytest.fixture
async def damaging() -> AsyncIterator[Wire]:
    wire = Wire(100)
    yield wire
    wire.close()


@HOSTS
async def test_the_kernel_sees_what_was_damaged(damaging: Wire, host: str) -> None:
    async with both(*damaging.vnls) as (one, two):
        await transfer(one, two, host.format(2))
        assert await wrong_checksums(two) > 0


async def test_what_waits_when_the_cable_is_pulled_is_counted(
    vde_switch: VdeSwitch,  # noqa: F811
    step: str,
) -> None:
    async with aioioth.Stack(vde_switch.vnl, ip=ONE) as one:
        async with congested(vde_switch, one):
            await one.interfaces["vde0"].set_carrier(on=False)
        drops = one.stats()["vde0"].sent.drops
        assert set(drops) == ({"no carrier"} if step == "compiled" else set())
