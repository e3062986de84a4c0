"""Segments that are written together: the kernel takes them for what they are."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from typing_extensions import override

import aioioth
from aioioth.nested import NestedTransport
from aioioth.networks import find_network

if TYPE_CHECKING:
    from collections.abc import Mapping

DATA = os.urandom(1 << 20) * 8

# RFC 1213's names.
RECEIVED, BAD = ("Ip", "InReceives"), ("Tcp", "InCsumErrors")


@pytest.fixture(autouse=True)
def _tap(tap_opens: bool) -> None:
    if not tap_opens:
        pytest.skip("/dev/net/tun does not open")


async def counted(stack: aioioth.Stack) -> Mapping[tuple[str, str], int]:
    """Return what the stack's kernel counts, by protocol and name."""
    process = await stack.create_subprocess_exec(
        "/bin/cat", "/proc/net/snmp", stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    lines = [line.split() for line in out.decode().splitlines()]
    return {
        (names[0].rstrip(":"), name): int(value)
        for names, values in zip(lines[::2], lines[1::2], strict=True)
        for name, value in zip(names[1:], values[1:], strict=True)
    }


async def transfer(source: aioioth.Stack, sink: aioioth.Stack, host: str) -> None:
    """Send DATA and see that it arrives."""
    arrived = asyncio.get_running_loop().create_future()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.set_result(await reader.read(-1))
        writer.close()

    async with asyncio.timeout(60), await sink.start_server(take, host, 7):
        _, writer = await source.open_connection(host, 7)
        writer.write(DATA)
        await writer.drain()
        writer.write_eof()
        assert await arrived == DATA
        writer.close()
        await writer.wait_closed()


class Nothing:
    """Changes nothing, and has frames that are complete because it sees them."""

    def __init__(self) -> None:
        self.drops: Counter[str] = Counter()

    def outgoing(self, frame: memoryview) -> memoryview:
        return frame

    def incoming(self, frame: memoryview) -> memoryview:
        return frame

    def close(self) -> None:
        pass


def plain(name: str) -> NestedTransport:
    """Return a network that carries single frames."""
    return NestedTransport(find_network(f"memory://{name}"), Nothing, 0)


@pytest.mark.parametrize("host", ["10.0.0.2", "fd00::2"])
async def test_few_of_many(host: str) -> None:
    async with (
        aioioth.Stack(plain("lan"), ip=["10.0.0.1/24", "fd00::1/64"]) as one,
        aioioth.Stack(plain("lan"), ip=["10.0.0.2/24", "fd00::2/64"]) as two,
    ):
        await transfer(one, two, host)
        frames = two.stats()["vde0"].received.frames
        assert frames > len(DATA) / 1500
        version = "Ip" if "." in host else None
        told = await counted(two)
        assert told[BAD] == 0
        if version:
            assert told[RECEIVED] < frames / 3


@pytest.mark.parametrize("host", ["10.2.0.2", "fd02::2"])
async def test_a_router_cuts_them_again(host: str) -> None:
    async with (
        aioioth.Stack(
            plain("left"),
            ip=["10.1.0.2/24", "fd01::2/64"],
            gw=["10.1.0.1", "fd01::1"],
        ) as left,
        aioioth.Stack(
            plain("left"),
            plain("right"),
            ip={
                "vde0": ["10.1.0.1/24", "fd01::1/64"],
                "vde1": ["10.2.0.1/24", "fd02::1/64"],
            },
        ) as router,
        aioioth.Stack(
            plain("right"),
            ip=["10.2.0.2/24", "fd02::2/64"],
            gw=["10.2.0.1", "fd02::1"],
        ) as right,
    ):
        await router.sysctl("net.ipv4.ip_forward", 1)
        await router.sysctl("net.ipv6.conf.all.forwarding", 1)
        await transfer(left, right, host)
        assert (await counted(right))[BAD] == 0


class Damage(Nothing):
    """Changes a byte of every hundredth long frame."""

    def __init__(self) -> None:
        super().__init__()
        self.damaged = 0
        self._number = 0

    @override
    def incoming(self, frame: memoryview) -> memoryview:
        if len(frame) > 1000:
            self._number += 1
            if self._number % 100 == 0:
                self.damaged += 1
                frame[-10] ^= 0xFF
        return frame


@pytest.mark.parametrize("version", [4, 6])
async def test_a_router_does_not_mend_what_was_damaged(version: int) -> None:
    damage = Damage()
    bad = NestedTransport(find_network("memory://left"), lambda: damage, 0)
    host = "10.2.0.2" if version == 4 else "fd02::2"
    async with (
        aioioth.Stack(
            plain("left"),
            ip=["10.1.0.2/24", "fd01::2/64"],
            gw=["10.1.0.1", "fd01::1"],
        ) as left,
        aioioth.Stack(
            bad,
            plain("right"),
            ip={
                "vde0": ["10.1.0.1/24", "fd01::1/64"],
                "vde1": ["10.2.0.1/24", "fd02::1/64"],
            },
        ) as router,
        aioioth.Stack(
            plain("right"),
            ip=["10.2.0.2/24", "fd02::2/64"],
            gw=["10.2.0.1", "fd02::1"],
        ) as right,
    ):
        await router.sysctl("net.ipv4.ip_forward", 1)
        await router.sysctl("net.ipv6.conf.all.forwarding", 1)
        await transfer(left, right, host)
        assert damage.damaged > 0
        # Each of them arrived, and as what it was.
        assert (await counted(right))[BAD] == damage.damaged


async def test_the_kernel_sees_what_was_damaged() -> None:
    bad = NestedTransport(find_network("memory://lan"), Damage, 0)
    async with (
        aioioth.Stack(plain("lan"), ip="10.0.0.1/24") as one,
        aioioth.Stack(bad, ip="10.0.0.2/24") as two,
    ):
        await transfer(one, two, "10.0.0.2")
        assert (await counted(two))[BAD] > 0
