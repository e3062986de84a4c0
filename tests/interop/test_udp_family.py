"""Needs vde_plug 4.0: udp and vxvde frame by frame; whole networks: test_schemes.py."""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING

import pytest

from aioioth_transports.udp import UdpTransport
from aioioth_transports.vxvde import VxvdePlug, VxvdeTransport
from tests.interop.conftest import PATIENCE, need, running

if TYPE_CHECKING:
    import subprocess
    from collections.abc import AsyncIterator

    from aioioth.abc import Plug

US, THEM, SOMEBODY = (bytes.fromhex(f"02000000000{n}") for n in (1, 2, 3))
ALL = b"\xff" * 6


def frame(to: bytes, source: bytes, length: int = 60) -> bytes:
    return to + source + b"\x88\xb5" + os.urandom(length - 14)


async def receive(plug: Plug) -> bytes:
    """Return the next frame, waiting for it as a pump does."""
    loop = asyncio.get_running_loop()
    buffer = memoryview(bytearray(65554))
    readable = asyncio.Event()
    loop.add_reader(plug.fileno(), readable.set)
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                with contextlib.suppress(BlockingIOError):
                    length = plug.recv_into(buffer)
                    return bytes(buffer[:length])
                readable.clear()
                await readable.wait()
    finally:
        loop.remove_reader(plug.fileno())


def nothing_waits(plug: Plug) -> bool:
    buffer = memoryview(bytearray(65554))
    for _ in range(8):  # one socket or the other
        with contextlib.suppress(BlockingIOError):
            plug.recv_into(buffer)
            return False
    return True


class VdePlug:
    """vde_plug between a network and our pipes: a length, a frame, and so on."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._in, self._out = process.stdin, process.stdout

    def send(self, data: bytes) -> None:
        self._in.write(struct.pack("!H", len(data)) + data)

    async def receive(self) -> bytes:
        async with asyncio.timeout(PATIENCE):
            (length,) = struct.unpack("!H", await asyncio.to_thread(self._read, 2))
            return await asyncio.to_thread(self._read, length)

    def _read(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            more = self._out.read(length - len(data))
            assert more, "vde_plug has ended"
            data += more
        return data

    async def leave(self) -> None:
        """Have it go, and wait until it is gone."""
        self._in.close()
        async with asyncio.timeout(PATIENCE):
            assert await asyncio.to_thread(self._process.wait) == 0


@asynccontextmanager
async def vde_plug(vnl: str, heard_by: Plug) -> AsyncIterator[VdePlug]:
    """Run vde_plug, ready when a frame from it was heard."""
    need("vde_plug")
    with running("vde_plug", vnl) as process:
        plug = VdePlug(process)
        hello = frame(ALL, THEM)
        plug.send(hello)
        assert await receive(heard_by) == hello
        yield plug


def known(plug: VxvdePlug) -> set[str]:
    return {peer.mac for peer in plug.peers}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            "127.0.0.1:5001->127.0.0.1:5002",
            "127.0.0.1:5002->127.0.0.1:5001",
        ),
        ("5001->127.0.0.1:5002", "5002->127.0.0.1:5001"),
        ("[::1]:5001->[::1]:5002", "::1:5002->::1:5001"),
    ],
)
async def test_udp(ours: str, theirs: str) -> None:
    with closing(await UdpTransport(ours).open("us")) as plug:
        async with vde_plug(f"udp://{theirs}", plug) as they:
            for length in (15, 60, 1514, 9234):
                sent = frame(US, THEM, length)
                they.send(sent)
                assert await receive(plug) == sent
                plug.send(sent)
                assert await they.receive() == sent
        assert not any(plug.drops.values())


@pytest.mark.parametrize(
    "address",
    [
        "/if=lo",
        "/v4/if=lo",
        "234.0.0.1/port=5000/vni=42/if=lo/ttl=3",
        "/vni/if=lo",
        "/vni=adm/if=lo",
        "/grp=adm/if=lo",
        "239.1.2.3/grp=70000/vni=5/if=lo/bind=127.0.0.1",
    ],
)
async def test_vxvde(address: str) -> None:
    transport = VxvdeTransport(address)
    with closing(await transport.open("us")) as plug:
        async with vde_plug(f"vxvde://{address}", plug) as they:
            for length in (15, 60, 1514, 9234):
                plug.send(sent := frame(ALL, US, length))
                assert await they.receive() == sent
                they.send(sent := frame(US, THEM, length))
                assert await receive(plug) == sent
                plug.send(sent := frame(THEM, US, length))
                assert await they.receive() == sent
            assert known(plug) == {THEM.hex(":")}
            assert nothing_waits(plug)
        assert not any(plug.drops.values())


async def test_they_say_goodbye() -> None:
    with closing(await VxvdeTransport("/if=lo").open("us")) as plug:
        async with vde_plug("vxvde:///if=lo", plug) as they:
            assert known(plug) == {THEM.hex(":")}
            await they.leave()
            assert nothing_waits(plug)
            assert known(plug) == set()


async def test_we_say_goodbye() -> None:
    """Then they ask everybody for us, so a third one hears it.

    On ``lo`` datagrams to groups have no source address unless it is given, and a
    goodbye counts for the address that it comes from.
    """
    transport = VxvdeTransport("/if=lo/bind=127.0.0.1")
    plug = await transport.open("us")
    with closing(plug), closing(await transport.open("third")) as third:
        async with vde_plug("vxvde:///if=lo", plug) as they:
            assert not nothing_waits(third)
            plug.send(sent := frame(THEM, US))
            assert await they.receive() == sent
            they.send(sent := frame(US, THEM))
            assert await receive(plug) == sent
            assert nothing_waits(third)
            plug.close()
            # In the order they were sent: it comes after the goodbye.
            third.send(sent := frame(ALL, SOMEBODY))
            assert await they.receive() == sent
            they.send(sent := frame(US, THEM))
            assert await receive(third) == sent


async def test_another_network_in_the_same_group() -> None:
    with (
        closing(await VxvdeTransport("/if=lo").open("us")) as plug,
        closing(await VxvdeTransport("/if=lo/vni=2").open("other")) as other,
    ):
        async with vde_plug("vxvde:///if=lo", plug):
            assert nothing_waits(other)
            assert other.drops["wrong network"] == 1
