"""Segments of 64 KiB from stack to stack, and cut where somebody wants single ones."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import Counter
from contextlib import asynccontextmanager, closing, suppress
from typing import TYPE_CHECKING

import pytest
from typing_extensions import override

import aioioth
from aioioth._pump import BUFFER_SIZE
from aioioth.wire.offload import HEADER_SIZE
from tests.kernel.traffic import (
    ECHOED,
    HOSTS,
    ONE,
    TWO,
    Nothing,
    plain,
    there_and_back,
    wrong_checksums,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from aioioth.abc import Plug
    from aioioth.switch import SwitchPort

# <linux/udp.h>, Linux 6.1
UDP_SEGMENT = 103


def drops(*stacks: aioioth.Stack) -> Counter[str]:
    total: Counter[str] = Counter()
    for stack in stacks:
        for traffic in stack.stats().values():
            total.update(traffic.sent.drops)
            total.update(traffic.received.drops)
    return total


def ones_sum(data: bytes) -> int:
    """Add up as RFC 1071 says it, word by word."""
    total = 0
    for at in range(0, len(data), 2):
        total += int.from_bytes(data[at : at + 2].ljust(2, b"\0"))
        total = (total & 0xFFFF) + (total >> 16)
    return total


def is_complete(frame: bytes, mtu: int = 1500) -> bool:
    """Whether a frame is one that can be on a wire: its length, and its checksums."""
    at = 16 if frame[12:14] == b"\x81\0" else 12
    kind, packet = frame[at : at + 2], frame[at + 2 :]
    if kind == b"\x08\0":
        start, protocol, addresses = (packet[0] & 15) * 4, packet[9], packet[12:20]
        right = ones_sum(packet[:start]) == 0xFFFF
        right = right and int.from_bytes(packet[2:4]) == len(packet)
        right = right and not int.from_bytes(packet[6:8]) & 0x3FFF  # no fragment
    elif kind == b"\x86\xdd":
        start, protocol, addresses = 40, packet[6], packet[8:40]
        right = int.from_bytes(packet[4:6]) == len(packet) - 40
    else:
        return len(packet) <= mtu
    if protocol not in {socket.IPPROTO_TCP, socket.IPPROTO_UDP}:
        return right and len(packet) <= mtu
    pseudo = addresses + (len(packet) - start).to_bytes(4) + protocol.to_bytes(4)
    return right and len(packet) <= mtu and ones_sum(pseudo + packet[start:]) == 0xFFFF


@asynccontextmanager
async def mirrored(switch: aioioth.Switch) -> AsyncIterator[Callable[[], int]]:
    """Yield what tells the longest frame that passed at the switch's first port."""
    first, buffer = switch.ports[0], memoryview(bytearray(BUFFER_SIZE))
    mirror = await switch.open("mirror")

    def longest() -> int:
        lengths = [0]
        with suppress(BlockingIOError):
            while True:
                lengths.append(mirror.recv_into(buffer) - HEADER_SIZE)
        return max(lengths)

    with closing(mirror):
        assert mirror.carry_offloads(lambda _: False)
        switch.mirror(first, to=mirror)
        yield longest


class Seen(Nothing):
    """Every sixteenth frame is looked at, both ways."""

    def __init__(self) -> None:
        super().__init__()
        self.bad: list[bytes] = []
        self.frames = 0

    @override
    def outgoing(self, frame: memoryview) -> memoryview:
        self._see(frame)
        return frame

    @override
    def incoming(self, frame: memoryview) -> memoryview:
        self._see(frame)
        return frame

    def _see(self, frame: memoryview) -> None:
        self.frames += 1
        if self.frames % 16 == 0 and not is_complete(bytes(frame)):
            self.bad.append(bytes(frame))


@HOSTS
@pytest.mark.parametrize("mtu", [1500, 9000])
async def test_whole_from_stack_to_stack(device: str, host: str, mtu: int) -> None:
    switch = aioioth.Switch(name="lab")
    async with (
        aioioth.Stack(switch, ip=ONE, device=device, mtu=mtu) as one,
        aioioth.Stack(switch, ip=TWO, device=device, mtu=mtu) as two,
        mirrored(switch) as longest,
    ):
        await there_and_back(one, two, host)
        assert two.stats()["vde0"].received.bytes > len(ECHOED)
        assert longest() > 10_000
        assert await wrong_checksums(two) == 0
        assert drops(one, two).keys() <= {"no buffer space"}


@HOSTS
async def test_between_a_tap_and_a_packet_socket(tap_opens: bool, host: str) -> None:
    if not tap_opens:
        pytest.skip("/dev/net/tun does not open")
    async with (
        aioioth.Stack("memory://lan", ip=ONE, device="tap") as one,
        aioioth.Stack("memory://lan", ip=TWO, device="packet") as two,
    ):
        await there_and_back(one, two, host)
        assert await wrong_checksums(one) == 0
        assert await wrong_checksums(two) == 0


@HOSTS
async def test_a_network_that_carries_single_frames_gets_them(
    device: str, host: str
) -> None:
    seen = Seen()
    async with (
        aioioth.Stack("memory://lan", ip=ONE, device=device) as one,
        aioioth.Stack(plain("memory://lan", seen), ip=TWO, device=device) as two,
    ):
        await there_and_back(one, two, host)
        assert await wrong_checksums(one) == 0
        assert await wrong_checksums(two) == 0
    assert seen.frames > 2 * len(ECHOED) / 1500
    assert seen.bad == []


@HOSTS
async def test_who_watches_sees_what_would_be_on_the_wire(host: str) -> None:
    switch = aioioth.Switch(name="lab")
    frames: list[bytes] = []
    switch.watch(frames.append)
    async with (
        aioioth.Stack(switch, ip=ONE) as one,
        aioioth.Stack(switch, ip=TWO) as two,
    ):
        await there_and_back(one, two, host)
        assert len(frames) > 2 * len(ECHOED) / 1500
        assert [frame for frame in frames[::16] if not is_complete(frame)] == []


@HOSTS
async def test_vde_programs_and_stacks_at_one_switch(
    tmp_path: Path, device: str, host: str
) -> None:
    path = tmp_path / "switch"
    async with (
        aioioth.Switch(path) as switch,
        aioioth.Stack(switch, ip=ONE, device=device) as one,
        aioioth.Stack(switch, ip=TWO, device=device) as two,
        aioioth.Stack(f"vde://{path}", ip=["10.0.0.3/24", "fd00::3/64"]) as three,
        mirrored(switch) as longest,
    ):
        await there_and_back(one, two, host)
        await there_and_back(three, two, host)
        await there_and_back(two, three, host.replace("2", "3"))
        for stack in one, two, three:
            assert await wrong_checksums(stack) == 0
        assert longest() > 10_000


@HOSTS
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "cut"])
async def test_in_a_vlan(device: str, host: str, *, whole: bool) -> None:
    """Tagged between two switches, by a trunk that has headers or has not."""
    here, there = aioioth.Switch(name="here"), aioioth.Switch(name="there")
    frames: list[bytes] = []
    async with (
        aioioth.Stack(here, ip=ONE, device=device) as one,
        aioioth.Stack(there, ip=TWO, device=device) as two,
    ):
        here.ports[0].set_vlans(untagged=5)
        there.ports[0].set_vlans(untagged=5)
        near, far = await here.open("trunk"), await there.open("trunk")
        with closing(near), closing(far):
            for port in near, far:
                port.set_vlans(tagged=[5])
                if whole:
                    assert port.carry_offloads(lambda _: False)
            relaying = asyncio.create_task(relay(near, far, frames))
            await there_and_back(one, two, host)
            await there_and_back(two, one, host.replace("2", "1"))
            relaying.cancel()
        assert await wrong_checksums(one) == 0
        assert await wrong_checksums(two) == 0
    header = 10 if whole else 0
    tags = {frame[header + 12 : header + 16] for frame in frames}
    assert tags == {bytes.fromhex("81000005")}
    if whole:
        assert max(map(len, frames)) > 10_000
    else:
        assert [frame for frame in frames[::16] if not is_complete(frame)] == []


async def relay(one: SwitchPort, other: SwitchPort, frames: list[bytes]) -> None:
    """Carry frames between two ports that no stack is plugged into."""
    buffer = memoryview(bytearray(BUFFER_SIZE))
    while True:
        for source, sink in (one, other), (other, one):
            try:
                frame = buffer[: source.recv_into(buffer)]
            except BlockingIOError:
                continue
            frames.append(bytes(frame))
            sink.send(frame)
        await asyncio.sleep(0)


@HOSTS
async def test_a_cable_to_a_network_of_single_frames(device: str, host: str) -> None:
    async with (
        aioioth.Stack("memory://here", ip=ONE, device=device) as one,
        aioioth.Stack(plain("memory://there"), ip=TWO, device=device) as two,
        aioioth.Cable("memory://here", plain("memory://there")),
    ):
        await there_and_back(one, two, host)
        await there_and_back(two, one, host.replace("2", "1"))
        assert await wrong_checksums(one) == 0
        assert await wrong_checksums(two) == 0


@HOSTS
async def test_a_router_passes_them_on(device: str, host: str) -> None:
    right = aioioth.Switch(name="right")
    async with (
        aioioth.Stack(
            "memory://left",
            ip=["10.1.0.2/24", "fd01::2/64"],
            device=device,
            gw=["10.1.0.1", "fd01::1"],
        ) as one,
        aioioth.Stack(
            "memory://left",
            right,
            device=device,
            ip={
                "vde0": ["10.1.0.1/24", "fd01::1/64"],
                "vde1": ["10.0.0.1/24", "fd00::1/64"],
            },
        ) as router,
        aioioth.Stack(right, ip=TWO, device=device, gw=["10.0.0.1", "fd00::1"]) as two,
        mirrored(right) as longest,
    ):
        await router.sysctl("net.ipv4.ip_forward", 1)
        await router.sysctl("net.ipv6.conf.all.forwarding", 1)
        await there_and_back(one, two, host)
        assert await wrong_checksums(two) == 0
        assert longest() > 10_000


@HOSTS
async def test_datagrams(device: str, host: str) -> None:
    """Of all sizes: complete, in fragments, and many at once (UDP_SEGMENT)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    loop = asyncio.get_running_loop()
    async with (
        aioioth.Stack("memory://lan", ip=ONE, device=device) as one,
        aioioth.Stack("memory://lan", ip=TWO, device=device) as two,
    ):
        with (
            one.socket(family, socket.SOCK_DGRAM) as source,
            two.socket(family, socket.SOCK_DGRAM) as sink,
        ):
            sink.bind((host, 7))
            source.connect((host, 7))
            for length in (1, 1400, 1401, 20_000):
                payload = os.urandom(length)
                async with asyncio.timeout(20):
                    await loop.sock_sendall(source, payload)
                    assert await loop.sock_recv(sink, 65536) == payload
            source.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1000)
            payload = os.urandom(9500)
            async with asyncio.timeout(20):
                await loop.sock_sendall(source, payload)
                parts = [await loop.sock_recv(sink, 65536) for _ in range(10)]
            assert b"".join(parts) == payload


async def test_a_connection_lives_through_changes_of_the_network(device: str) -> None:
    switch = aioioth.Switch(name="lab")

    class Kinds:
        """The switch, with single frames every second time."""

        def __init__(self) -> None:
            self.number = 0

        async def open(self, label: str) -> Plug:
            self.number += 1
            if self.number % 2:
                return await switch.open(label)
            port = await switch.open(label)
            return Plain(port)

    kinds = Kinds()
    total = b""
    async with (
        aioioth.Stack(kinds, ip=ONE, device=device) as one,
        aioioth.Stack(switch, ip=TWO, device=device) as two,
    ):
        done = asyncio.Event()

        async def take(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            nonlocal total
            while data := await reader.read(1 << 18):
                total += data
            writer.close()
            done.set()

        async with asyncio.timeout(60), await two.start_server(take, "10.0.0.2", 7):
            _, writer = await one.open_connection("10.0.0.2", 7)
            interface = one.interfaces["vde0"]
            for _ in range(4):
                writer.write(ECHOED)  # some of it is on its way
                await asyncio.sleep(0)
                await interface.set_carrier(on=False)
                await interface.set_carrier(on=True)
                await writer.drain()
            writer.write_eof()
            await done.wait()
            writer.close()
            await writer.wait_closed()
        assert kinds.number == 5
        assert total == 4 * ECHOED
        assert await wrong_checksums(two) == 0
        assert await wrong_checksums(one) == 0


class Plain:
    """A port, without what it can do besides."""

    def __init__(self, port: SwitchPort) -> None:
        self.mtu = port.mtu
        self.drops = port.drops
        self.fileno, self.hangup_fileno = port.fileno, port.hangup_fileno
        self.recv_into, self.send, self.close = port.recv_into, port.send, port.close
