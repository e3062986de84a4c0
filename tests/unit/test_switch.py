from __future__ import annotations

import asyncio
import errno
import os
import select
import struct
import sys
import threading
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

import aioioth
from aioioth import abc
from aioioth.errors import BrokenTransportError, ConfigurationError
from aioioth.switch import MacEntry, PortCounters, PortStats, Switch, SwitchPort
from aioioth.wire.offload import HEADER_SIZE, VNET_HEADER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from typing_extensions import Buffer

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


def with_tag(data: bytes, vlan: int, priority: int = 0) -> bytes:
    tag = b"\x81\x00" + (priority << 13 | vlan).to_bytes(2, "big")
    return data[:12] + tag + data[12:]


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
    monkeypatch.setattr("aioioth._switchports.time", clock)
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
    switch = Switch(name="lab")
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
    async with ports(Switch(name="lab"), 2) as [one, two]:
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


# What can be read


async def test_each_port_counts() -> None:
    async with ports(Switch(), 2) as [one, two]:
        one.send(frame(to=B, by=A, payload=bytes(100)))
        one.send(frame(to=B, by=A, payload=bytes(50)))
        one.send(bytes(13))
        received(two)
        nothing = PortCounters(0, 0, {})
        assert one.stats == PortStats(PortCounters(2, 178, {"too short": 1}), nothing)
        assert two.stats == PortStats(nothing, PortCounters(2, 178, {}))


async def test_what_is_lost_on_the_way_out_is_counted_there() -> None:
    async with ports(Switch(), 2) as [one, two]:
        for _ in range(2050):
            one.send(frame(to=B, by=A, payload=bytes(50)))
        received(two)
        assert one.stats.received == PortCounters(2050, 2050 * 64, {})
        assert two.stats.sent == PortCounters(2048, 2048 * 64, {"queue full": 2})


async def test_the_table_can_be_read(clock: Clock) -> None:
    switch = Switch()
    async with ports(switch, 2) as [one, two]:
        one.send(frame(to=EVERYBODY, by=A))
        clock.now += 5
        two.send(with_tag(frame(to=EVERYBODY, by=B), 7))
        of_one = MacEntry("02:00:00:00:00:0a", 0, one, 5.0)
        of_two = MacEntry("02:00:00:00:00:0b", 7, two, 0.0)
        assert list(switch.mac_table) == [of_one, of_two]
        two.close()
        assert list(switch.mac_table) == [of_one]
        clock.now += 295
        assert list(switch.mac_table) == []


async def test_the_table_is_as_large_and_lasting_as_wanted(clock: Clock) -> None:
    switch = Switch(capacity=1, ageing=10)
    async with ports(switch, 2) as [one, two]:
        one.send(frame(to=EVERYBODY, by=A))
        two.send(frame(to=EVERYBODY, by=B))
        assert [entry.mac for entry in switch.mac_table] == ["02:00:00:00:00:0a"]
        clock.now += 10
        assert switch.mac_table == ()


async def test_an_address_that_is_heard_all_the_time_is_young(clock: Clock) -> None:
    """Though not each frame is looked at for long."""
    switch = Switch()
    async with ports(switch, 2) as [one, two]:
        for _ in range(1000):
            one.send(frame(to=B, by=A, payload=bytes(50)))
            received(two)
            clock.now += 0.01
            [entry] = switch.mac_table
            assert 0 <= entry.age <= 1.02


async def test_a_decision_is_not_kept_beyond_the_age_of_an_address(
    clock: Clock,
) -> None:
    async with ports(Switch(), 3) as [one, two, three]:
        data = frame(to=B, by=A, payload=bytes(50))
        two.send(frame(to=EVERYBODY, by=B))
        received(three)
        for _ in range(2999):
            clock.now += 0.1
            one.send(data)
        assert received(three) == []
        clock.now += 0.2
        one.send(data)
        assert received(three) == [data]


async def test_an_address_that_goes_to_and_fro_is_followed() -> None:
    async with ports(Switch(), 3) as [one, two, three]:
        to_b = frame(to=B, by=A, payload=bytes(50))
        by_b = frame(to=A, by=B, payload=bytes(50))
        three.send(to_b)
        for _ in range(3):
            for here, other in (one, two), (two, one):
                here.send(by_b)
                received(one), received(two)
                three.send(to_b)
                assert received(here) == [to_b]
                assert received(other) == []


async def test_an_address_that_becomes_known_ends_the_flood() -> None:
    async with ports(Switch(), 3) as [one, two, three]:
        data = frame(to=B, by=A, payload=bytes(50))
        one.send(data)
        assert received(three) == received(two) == [data]
        two.send(frame(to=A, by=B))
        one.send(data)
        assert received(three) == []
        assert received(two) == [data]


async def test_more_flows_than_are_remembered() -> None:
    async with ports(Switch(), 2) as [one, two]:
        for number in range(2000):
            data = frame(b"\x02\xff" + number.to_bytes(4, "big"), A, bytes(50))
            one.send(data)
            assert received(two) == [data]
        assert len(one._decisions) <= 512


# VLANs


async def test_tagged_frames_pass_as_they_are() -> None:
    async with ports(Switch(), 3) as [one, two, three]:
        assert (one.untagged, one.tagged) == (None, ())
        data = with_tag(frame(to=B, by=A, payload=bytes(50)), 7, priority=5)
        one.send(data)
        assert received(two) == received(three) == [data]


async def test_an_address_is_known_by_vlan() -> None:
    async with ports(Switch(), 3) as [one, two, three]:
        two.send(with_tag(frame(to=EVERYBODY, by=B), 7))
        three.send(with_tag(frame(to=EVERYBODY, by=B), 8))
        for port in (one, two, three):
            received(port)
        for vlan, there, elsewhere in (7, two, three), (8, three, two):
            data = with_tag(frame(to=B, by=A), vlan)
            one.send(data)
            assert received(there) == [data]
            assert received(elsewhere) == []
        one.send(frame(to=B, by=A))  # nobody knows it without a tag
        assert received(two) == received(three) == [frame(to=B, by=A)]


async def test_a_tag_for_the_priority_only_is_no_vlan() -> None:
    async with ports(Switch(), 3) as [one, two, three]:
        two.send(frame(to=EVERYBODY, by=B))
        received(one), received(three)
        data = with_tag(frame(to=B, by=A), 0, priority=5)
        one.send(data)
        assert received(two) == [data]
        assert received(three) == []


@pytest.mark.parametrize("size", [50, 0])
async def test_access_ports_and_a_trunk(size: int) -> None:
    async with ports(Switch(), 4) as [access, other, foreign, trunk]:
        access.set_vlans(7)
        other.set_vlans(untagged=7, tagged=[9])
        foreign.set_vlans(8, tagged=(9,))
        assert (other.untagged, other.tagged) == (7, (9,))
        plain = frame(to=EVERYBODY, by=A, payload=bytes(size))
        tagged = with_tag(plain, 7)
        access.send(plain)
        assert received(other) == [plain]
        assert received(trunk) == [tagged]
        assert received(foreign) == []
        trunk.send(tagged)
        assert received(access) == received(other) == [plain]
        assert received(foreign) == []
        trunk.send(with_tag(plain, 9))
        assert received(other) == received(foreign) == [with_tag(plain, 9)]
        assert received(access) == []
        other.send(with_tag(plain, 9, priority=3))
        assert received(foreign) == received(trunk) == [with_tag(plain, 9, 3)]
        assert received(access) == []


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(frame(EVERYBODY, A, bytes(50)), id="no tag"),
        pytest.param(with_tag(frame(EVERYBODY, A, bytes(50)), 8), id="another"),
        pytest.param(with_tag(frame(EVERYBODY, A, bytes(50)), 0), id="priority"),
        pytest.param(with_tag(frame(EVERYBODY, A, bytes(50)), 4095), id="reserved"),
    ],
)
async def test_nothing_else_passes(data: bytes) -> None:
    async with ports(Switch(), 2) as [one, two]:
        one.set_vlans(tagged=[7])
        for _ in range(3):
            one.send(data)
        assert received(two) == []
        assert one.stats.received == PortCounters(0, 0, {"not in this VLAN": 3})
        two.send(data)
        assert received(one) == []


async def test_a_tag_is_refused_where_its_vlan_has_none() -> None:
    async with ports(Switch(), 2) as [one, two]:
        one.set_vlans(7)
        one.send(with_tag(frame(to=EVERYBODY, by=A), 7))
        assert received(two) == []


async def test_a_priority_is_kept_where_there_is_a_tag_for_it() -> None:
    async with ports(Switch(), 3) as [one, two, trunk]:
        one.set_vlans(7)
        two.set_vlans(7)
        plain = frame(to=EVERYBODY, by=A, payload=bytes(50))
        one.send(with_tag(plain, 0, priority=5))
        assert received(trunk) == [with_tag(plain, 7, priority=5)]
        assert received(two) == [plain]


async def test_a_frame_too_short_for_a_tag_has_none() -> None:
    async with ports(Switch(), 3) as [one, two, trunk]:
        one.set_vlans(7)
        two.set_vlans(7)
        for length in range(14, 18):
            data = (EVERYBODY + A + b"\x81\0\0\x09" + bytes(4))[:length]
            one.send(data)
            assert received(two) == [data]
            assert received(trunk) == [with_tag(data, 7)]


async def test_vlans_may_change() -> None:
    async with ports(Switch(), 2) as [one, two]:
        data = frame(to=B, by=A, payload=bytes(50))
        two.send(frame(to=EVERYBODY, by=B))
        one.send(data)
        two.set_vlans(7)
        one.send(data)
        assert received(two) == [data]
        two.set_vlans()
        assert (two.untagged, two.tagged) == (None, ())
        one.send(data)
        assert received(two) == [data]


@pytest.mark.parametrize(
    ("untagged", "tagged", "message"),
    [
        (0, (), "VLAN 0: expected a number from 1 to 4094"),
        (4095, (), "VLAN 4095: expected"),
        (None, (1, -1), "VLAN -1: expected"),
        (5, (4, 5), "VLAN 5: frames have a tag here, or have none"),
    ],
)
async def test_vlans_that_cannot_be(
    untagged: int | None, tagged: tuple[int, ...], message: str
) -> None:
    async with ports(Switch(), 1) as [one]:
        with pytest.raises(ConfigurationError, match=message):
            one.set_vlans(untagged, tagged)
        assert one.untagged is None


# Mirrors


async def test_a_mirror_has_all_that_goes_in_and_out() -> None:
    switch = Switch()
    async with ports(switch, 4) as [one, two, three, sniffer]:
        one.send(frame(to=EVERYBODY, by=A))
        two.send(frame(to=EVERYBODY, by=B))
        three.send(frame(to=EVERYBODY, by=C))
        received(sniffer)
        end = switch.mirror(one, to=sniffer)
        there, back = frame(to=B, by=A, payload=b"!"), frame(to=A, by=B, payload=b"!")
        between = frame(to=C, by=B)
        everybody = frame(to=EVERYBODY, by=A)
        one.send(there)
        two.send(back)
        two.send(between)
        one.send(everybody)
        assert received(sniffer) == [there, back, everybody]  # once
        assert received(one)[-1] == back
        end()
        end()
        one.send(there)
        assert received(sniffer) == []


async def test_a_mirror_shows_frames_as_they_are_there() -> None:
    switch = Switch()
    async with ports(switch, 3) as [one, trunk, sniffer]:
        one.set_vlans(7)
        sniffer.set_vlans(8)
        switch.mirror(one, to=sniffer)
        plain = frame(to=EVERYBODY, by=A, payload=bytes(50))
        trunk.send(with_tag(plain, 7))
        one.send(plain)
        foreign = with_tag(plain, 9)
        one.send(foreign)  # refused, and yet it came
        assert received(sniffer) == [plain, plain, foreign]


async def test_a_mirror_ends_with_its_ports() -> None:
    switch = Switch()
    async with ports(switch, 4) as [one, two, sniffer, other]:
        one_ends = switch.mirror(one, to=sniffer)
        switch.mirror(other, to=two)
        other.close()
        sniffer.close()
        one.send(frame(to=EVERYBODY, by=A))
        assert received(two) == [frame(to=EVERYBODY, by=A)]
        assert received(one) == []
        one_ends()


async def test_what_cannot_be_mirrored() -> None:
    switch = Switch(name="lab")
    async with ports(switch, 1) as [one], ports(Switch(), 1) as [other]:
        with pytest.raises(ConfigurationError, match="port 0: no port of lab"):
            switch.mirror(one, to=other)
        with pytest.raises(ConfigurationError, match="port 0: no port of lab"):
            switch.mirror(other, to=one)
        with pytest.raises(ConfigurationError, match="to itself"):
            switch.mirror(one, to=one)


# Disconnecting


@pytest.mark.parametrize("by_switch", [True, False])
async def test_a_port_is_disconnected(by_switch: bool) -> None:
    switch = Switch(name="lab")
    async with ports(switch, 2) as [one, two]:
        two.send(frame(to=EVERYBODY, by=B))
        if by_switch:
            switch.disconnect(one)
        one.disconnect()
        assert switch.ports == (two,)
        assert readable(one)
        assert received_until_the_end(one) == [frame(to=EVERYBODY, by=B)]
        message = "lab: disconnected by the switch"
        for _ in range(2):
            with pytest.raises(BrokenTransportError, match=message):
                one.recv_into(memoryview(bytearray(100)))
            with pytest.raises(BrokenTransportError, match=message):
                one.send(frame(to=B, by=A))
        two.send(frame(to=EVERYBODY, by=B))
        assert received(two) == []
        with pytest.raises(ConfigurationError, match="no port of lab"):
            switch.disconnect(one)


def received_until_the_end(port: SwitchPort) -> list[bytes]:
    buffer = memoryview(bytearray(2000))
    frames = []
    while True:
        try:
            frames.append(bytes(buffer[: port.recv_into(buffer)]))
        except BrokenTransportError:
            return frames


async def test_a_closed_port_may_be_disconnected() -> None:
    async with ports(Switch(), 1) as [one]:
        one.close()
        one.disconnect()
        with pytest.raises(BrokenTransportError, match="the port is closed"):
            one.send(frame(to=B, by=A))


def test_ports_are_disconnected_by_another_thread() -> None:
    switch = Switch()
    done = threading.Event()

    def send() -> None:
        async def body() -> None:
            while not done.is_set():
                async with ports(switch, 1) as [port]:
                    with pytest.raises(BrokenTransportError):
                        while not done.is_set():
                            port.send(frame(to=B, by=A, payload=bytes(50)))
                        port.disconnect()
                        port.send(frame(to=B, by=A))

        asyncio.run(body())

    def disconnect() -> None:
        try:
            for _ in range(300):
                for port in switch.ports:
                    port.disconnect()
        finally:
            done.set()

    assert in_threads(send, disconnect) == []
    assert switch.ports == ()


# Ways of forwarding, without VDE programs


async def test_a_hub_repeats_all() -> None:
    switch = Switch(forwarding="hub")
    async with ports(switch, 3) as [one, two, three]:
        two.send(frame(to=EVERYBODY, by=B))
        for port in (one, two, three):
            received(port)
        one.send(frame(to=B, by=A))
        assert received(two) == received(three) == [frame(to=B, by=A)]
        assert received(one) == []
        assert switch.mac_table == ()


@pytest.mark.parametrize("forwarding", ["multi", "bonding"])
async def test_these_do_not_join_local_ports(forwarding: Any) -> None:
    async with ports(Switch(forwarding=forwarding), 2) as [one, two]:
        one.send(frame(to=EVERYBODY, by=A, payload=bytes(50)))
        assert received(two) == []


# Making one


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"forwarding": "ring"}, "forwarding='ring': expected one of 'switch', 'hub',"),
        ({"ageing": 0}, "ageing=0"),
        ({"capacity": 0}, "capacity=0"),
        ({"group": "no-such-group"}, "this system has no group 'no-such-group'"),
        ({"path": ""}, "expected the path of a directory"),
        ({"path": "/tmp/a\0b"}, "expected the path of a directory"),
        ({"path": "/tmp/" + "x" * 100}, "107 bytes; at most 97"),
    ],
)
def test_a_switch_that_cannot_be(settings: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Switch(**settings)


async def test_without_a_path_there_is_nothing_to_start() -> None:
    switch = Switch()
    assert switch.path is None
    async with switch:
        await switch.start()
        assert not switch.is_running
    async with ports(switch, 1) as [port]:
        assert switch.ports == (port,)


def test_names() -> None:
    assert str(Switch()) == "switch"
    assert str(Switch("/tmp/sw")) == "switch:///tmp/sw"
    assert str(Switch("/tmp/sw", forwarding="hub")) == "hub:///tmp/sw"
    assert str(Switch("/tmp/sw", name="lab")) == "lab"


# Ports that have a virtio header in front of each frame.

NO_HEADER = bytes(HEADER_SIZE)


class Way:
    """A stack that takes frames at once, or not."""

    def __init__(self, *, takes: bool = True) -> None:
        self.takes = takes
        self.frames: list[bytes] = []

    def __call__(self, data: Buffer) -> bool:
        if self.takes:
            self.frames.append(bytes(data))
        return self.takes


def joined(size: int, payload: bytes, to: bytes = B, by: bytes = A) -> bytes:
    """Return a long segment as a kernel hands it over, with its header."""
    tcp = bytes.fromhex("0001 0002 00000001 00000002 5010 0400 0000 0000")
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 40 + len(payload), 1, 0, 64, 6, 0)
    header = VNET_HEADER.pack(1, 1, 54, size, 34, 16)
    return header + to + by + b"\x08\0" + ip + bytes(8) + tcp + payload


async def test_a_long_segment_passes_whole_and_is_cut_for_others() -> None:
    switch = Switch()
    async with ports(switch, 4) as [one, two, three, plain]:
        ways = [Way(), Way(), Way(takes=False)]
        for port, way in zip((one, two, three), ways, strict=True):
            assert isinstance(port, abc.CarriesOffloads)
            assert port.carry_offloads(way)
        watched: list[bytes] = []
        switch.watch(watched.append)
        payload = os.urandom(2500)
        data = joined(1000, payload)
        assert one.send(data) == len(data)
        assert ways[0].frames == received(one) == []
        assert ways[1].frames == [data]  # at once, and not twice
        assert received(two) == []
        assert received(three) == [data]  # it waits
        parts = received(plain)
        assert [len(part) for part in parts] == [1054, 1054, 554]
        assert b"".join(part[54:] for part in parts) == payload
        assert watched == parts
        counted = PortCounters(1, len(data) - HEADER_SIZE, {})
        nothing = PortCounters(0, 0, {})
        assert one.stats == PortStats(counted, nothing)
        assert two.stats == three.stats == PortStats(nothing, counted)


async def test_complete_frames_get_an_empty_header() -> None:
    async with ports(Switch(), 3) as [whole, one, two]:
        whole.carry_offloads(way := Way())
        one.send(frame(to=EVERYBODY, by=A, payload=bytes(50)))
        complete = frame(to=EVERYBODY, by=A, payload=bytes(50))
        # By who does not know better it is not delivered at once: it may be joined.
        assert received(whole) == [NO_HEADER + complete]
        assert way.frames == []
        assert received(two) == [complete]
        answer = frame(to=A, by=B, payload=bytes(50))
        whole.send(NO_HEADER + answer)
        assert received(one) == [answer]
        assert received(two) == []


async def test_what_came_before_there_were_headers() -> None:
    """A port is there before its stack is: others may have said something already."""
    async with ports(Switch(), 2) as [one, two]:
        early = [frame(to=B, by=A, payload=bytes(count)) for count in (20, 5000)]
        for each in early:
            one.send(each)
        two.carry_offloads(way := Way())
        late = frame(to=B, by=A, payload=bytes(30))
        one.send(late)
        assert received(two) == [NO_HEADER + each for each in (*early, late)]
        assert way.frames == []
        assert two.stats.sent.bytes == sum(map(len, (*early, late)))


async def test_what_waits_goes_first() -> None:
    async with ports(Switch(), 2) as [one, two]:
        one.carry_offloads(Way())
        two.carry_offloads(way := Way(takes=False))
        frames = [joined(1000, bytes([number]) * 100) for number in range(3)]
        one.send(frames[0])
        way.takes = True
        one.send(frames[1])
        assert way.frames == []
        assert received(two) == frames[:2]
        one.send(frames[2])
        assert way.frames == frames[2:]


async def test_another_loops_stack_is_woken() -> None:
    switch = Switch()
    async with ports(switch, 1) as [one]:
        one.carry_offloads(Way())
        way, data = Way(), joined(1000, bytes(100))
        opened: list[SwitchPort] = []

        async def join() -> None:
            opened.append(await switch.open("there"))
            opened[0].carry_offloads(way)

        thread = threading.Thread(target=lambda: asyncio.run(join()))
        thread.start()
        thread.join()
        one.send(data)
        assert way.frames == []
        assert readable(opened[0])
        assert received(opened[0]) == [data]
        opened[0].close()


async def test_a_tag_moves_what_the_header_says() -> None:
    async with ports(Switch(), 3) as [access, trunk, plain]:
        access.carry_offloads(back := Way())
        trunk.carry_offloads(way := Way())
        access.set_vlans(untagged=5)
        trunk.set_vlans(tagged=[5])
        plain.set_vlans(tagged=[5])
        data = joined(1000, bytes(2500))
        access.send(data)
        [tagged] = way.frames
        assert tagged[HEADER_SIZE:] == with_tag(data[HEADER_SIZE:], 5)
        assert VNET_HEADER.unpack_from(tagged) == (1, 1, 58, 1000, 38, 16)
        assert [len(part) for part in received(plain)] == [1058, 1058, 558]
        answer = joined(1000, bytes(2500), to=A, by=B)
        head = VNET_HEADER.pack(1, 1, 58, 1000, 38, 16)
        trunk.send(head + with_tag(answer[HEADER_SIZE:], 5))
        assert back.frames == [answer]
        assert received(plain) == []
        access.send(NO_HEADER + with_tag(frame(to=B, by=A, payload=bytes(9)), 6))
        assert access.stats.received == PortCounters(
            1, len(data) - HEADER_SIZE, {"not in this VLAN": 1}
        )


@pytest.mark.parametrize("size", [0, 1])
async def test_what_cannot_be_cut_is_counted(size: int) -> None:
    switch = Switch()
    async with ports(switch, 3) as [one, two, plain]:
        one.carry_offloads(Way())
        two.carry_offloads(way := Way())
        watched: list[bytes] = []
        switch.watch(watched.append)
        data = bytearray(joined(size, bytes(2500)))  # of none, or in too many parts
        one.send(data)
        assert way.frames == [bytes(data)]  # its kernel may make sense of it
        assert received(plain) == watched == []
        assert plain.stats.sent.drops == {"not to be cut": 1}


async def test_lengths_with_a_header() -> None:
    async with ports(Switch(), 2) as [one, two]:
        one.carry_offloads(Way())
        two.carry_offloads(way := Way())
        assert one.send(NO_HEADER + bytes(13)) == 23
        assert one.send(bytes(3)) == 3
        shortest = NO_HEADER + frame(to=EVERYBODY, by=A)
        one.send(shortest)
        assert way.frames == [shortest]
        with pytest.raises(OSError) as caught:
            one.send(NO_HEADER + frame(B, A, bytes(65536)))
        assert caught.value.errno == errno.EMSGSIZE
        one.close()
        with pytest.raises(BrokenTransportError, match="closed"):
            one.send(shortest)
        assert one.stats.received.drops == {"too short": 2}


@pytest.mark.parametrize("forwarding", ["multi", "bonding"])
async def test_between_us_and_vde_programs_frames_stay_as_they_are(
    forwarding: Any,
) -> None:
    async with ports(Switch(forwarding=forwarding), 1) as [port]:
        assert not port.carry_offloads(Way())
