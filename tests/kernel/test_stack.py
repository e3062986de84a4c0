"""A stack's life: opened, configured, used, closed."""

from __future__ import annotations

import asyncio
import socket

import pytest

import aioioth
from aioioth import errors


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def ask(stack: aioioth.Stack, host: str, port: int, question: bytes) -> bytes:
    async with asyncio.timeout(10):
        reader, writer = await stack.open_connection(host, port)
        writer.write(question)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    return answer


@pytest.mark.parametrize("host", ["10.0.0.1", "fd00::1"])
async def test_two_stacks_talk(device: str, host: str) -> None:
    async with (
        aioioth.Stack(
            "memory://lan", ip=["10.0.0.1/24", "fd00::1/64"], device=device
        ) as left,
        aioioth.Stack(
            "memory://lan", ip=["10.0.0.2/24", "fd00::2/64"], device=device
        ) as right,
    ):
        assert left.interfaces["vde0"].device == device
        server = await left.start_server(echo, host, 7)
        async with server:
            assert await ask(right, host, 7, b"hello" * 20000) == b"hello" * 20000
    assert aioioth.stacks() == ()


async def test_lo_is_up_without_a_network() -> None:
    async with aioioth.Stack() as stack:
        assert dict(stack.interfaces) == {}
        for host in "127.0.0.1", "::1", "localhost":
            server = await stack.start_server(echo, host, 7)
            async with server:
                assert await ask(stack, host, 7, b"self") == b"self"


async def test_the_host_does_not_see_the_port() -> None:
    async with aioioth.Stack() as stack:
        server = await stack.start_server(echo, "127.0.0.1", 7777)
        async with server:
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", 7777)


async def test_several_interfaces(device: str) -> None:
    async with (
        aioioth.Stack(
            "memory://one",
            "eth1:memory://two",
            ip={"vde0": "10.1.0.1/24", "eth1": ["10.2.0.1/24", "fd02::1/64"]},
            mtu={"eth1": 1400},
            mac={"eth1": "02:00:00:00:00:17"},
            device=device,
        ) as middle,
        aioioth.Stack("memory://two", ip="10.2.0.2/24", device=device) as far,
    ):
        assert list(middle.interfaces) == ["vde0", "eth1"]
        assert middle.interfaces["vde0"].mtu == 1500
        assert middle.interfaces["eth1"].mtu == 1400
        assert middle.interfaces["eth1"].mac == "02:00:00:00:00:17"
        server = await middle.start_server(echo, "10.2.0.1", 7)
        async with server:
            assert await ask(far, "10.2.0.1", 7, b"x") == b"x"
        assert middle.stats()["eth1"].received.frames > 0
        with pytest.raises(OSError, match="unreachable"):
            await far.open_connection("10.1.0.1", 7)


async def test_strict_close_names_what_is_open() -> None:
    stack = await aioioth.Stack(name="held").open()
    sock = stack.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with pytest.raises(errors.BusyError, match=f"fd {sock.fileno()}: AF_INET"):
        await stack.aclose(strict=True)
    sock.close()
    await stack.aclose(strict=True)
    with pytest.raises(errors.ClosedError, match="stack 'held' is closed"):
        stack.socket()
