"""vxlan between two hosts, which are stacks of our own. See also tests/kernel."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from contextlib import AsyncExitStack, closing
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, strategies as st

import aioioth
from aioioth import abc
from aioioth.errors import BrokenTransportError, VnlError
from aioioth.testing import cancel_everywhere
from aioioth_transports.vxlan import VxlanPlug, VxlanTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

A, B = (bytes.fromhex(f"02000000000{n}") for n in (1, 2))
ALL = b"\xff" * 6
HEADER = bytes.fromhex("0800000000000100")


def frame(to: bytes, source: bytes, text: bytes = b"hello") -> bytes:
    return to + source + b"\x88\xb5" + text


async def receive(plug: abc.Plug) -> bytes:
    """Return the next frame, waiting for it as a pump does."""
    loop = asyncio.get_running_loop()
    buffer = memoryview(bytearray(65554))
    readable = asyncio.Event()
    loop.add_reader(plug.fileno(), readable.set)
    try:
        async with asyncio.timeout(10):
            while True:
                try:
                    length = plug.recv_into(buffer)
                except BlockingIOError:
                    readable.clear()
                    await readable.wait()
                else:
                    assert length is not None
                    return bytes(buffer[:length])
    finally:
        loop.remove_reader(plug.fileno())


def waiting(plug: abc.Plug) -> list[bytes]:
    """Return what waits; on the loopback interface it waits as soon as it is sent."""
    buffer = memoryview(bytearray(65554))
    frames: list[bytes] = []
    while True:
        try:
            length = plug.recv_into(buffer)
        except BlockingIOError:
            return frames
        assert length is not None
        frames.append(bytes(buffer[:length]))


def counted(plug: abc.CountsDrops) -> dict[str, int]:
    return {cause: count for cause, count in plug.drops.items() if count}


@pytest.fixture
async def hosts() -> AsyncIterator[list[aioioth.Stack]]:
    """Three hosts on a LAN, with an MTU of 1500."""
    async with AsyncExitStack() as undo:
        yield [
            await undo.enter_async_context(
                aioioth.Stack(
                    "memory://vxlan", ip=[f"192.168.0.{n}/24", f"fd01::{n}/64"]
                )
            )
            for n in (1, 2, 3)
        ]


async def open_on(host: aioioth.Stack, address: str) -> VxlanPlug:
    with host.activate(patch=True):
        return await VxlanTransport(address).open("me")


# What may stand there


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("/vni=16777216", "vni: expected a number from 0 to 16777215"),
        ("/vni=adm", "vni: expected a number"),
        ("/vni", "vni needs a value"),
        ("/bind=127.0.0.1", "no option 'bind'"),
        ("/port=65536", "port: expected a number from 1 to 65535"),
        ("192.0.2.1/v6", "v6: the address is one of IPv4"),
    ],
)
def test_no_address(address: str, reason: str) -> None:
    with pytest.raises(VnlError) as caught:
        VxlanTransport(address)
    assert caught.value.reason.startswith(reason)
    assert 0 <= caught.value.position <= len(address)


@given(st.text(st.sampled_from("/=v4v6ifportvni239.:f\0 0"), max_size=30))
def test_any_text_is_an_address_or_one_error(text: str) -> None:
    try:
        VxlanTransport(text)
    except VnlError as error:
        position = error.position
    else:
        position = 0
    assert 0 <= position <= len(text)


@pytest.mark.parametrize(
    ("address", "there", "port"),
    [
        ("/if=lo", "239.0.0.1", 4789),
        ("127.0.0.1", "127.0.0.1", 4789),
        ("::1/port=8472", "::1", 8472),
        ("localhost/v4", "127.0.0.1", 4789),
    ],
)
async def test_where_frames_go(address: str, there: str, port: int) -> None:
    transport = VxlanTransport(address)
    assert isinstance(transport, abc.FrameTransport)
    with closing(await transport.open("me")) as plug:
        assert isinstance(plug, abc.Plug)
        assert isinstance(plug, abc.CountsDrops)
        assert plug._destination[:2] == (there, port)
        assert plug._sockets[0].getsockname()[1] == port
        assert plug.hangup_fileno() == -1
        assert plug.mtu == 9216


async def test_one_endpoint_for_each_port() -> None:
    with closing(await VxlanTransport("/if=lo").open("one")):
        with pytest.raises(BrokenTransportError, match="port 4789 is taken") as caught:
            await VxlanTransport("/if=lo").open("two")
        assert caught.value.errno == errno.EADDRINUSE
        with closing(await VxlanTransport("/if=lo/port=4790").open("three")):
            pass


@pytest.mark.parametrize(
    ("address", "reason", "code"),
    [
        ("/if=nope", "there is no interface 'nope'", errno.ENODEV),
        ("ff02::1", "no interface leads to the group ff02::1", errno.EINVAL),
        ("no.such.invalid", "'no.such.invalid' has no address", errno.EADDRNOTAVAIL),
    ],
)
async def test_it_cannot_be_opened(address: str, reason: str, code: int) -> None:
    with pytest.raises(BrokenTransportError) as caught:
        await VxlanTransport(address).open("me")
    assert reason in str(caught.value)
    assert caught.value.errno == code


async def test_no_route_to_the_group() -> None:
    async with aioioth.Stack() as host:
        with pytest.raises(BrokenTransportError, match="/if=NAME"):
            await open_on(host, "")


async def test_no_route_to_one_host_is_a_drop() -> None:
    with closing(await VxlanTransport("192.0.2.1").open("me")) as plug:
        with pytest.raises(OSError) as caught:
            plug.send(frame(ALL, A))
    assert caught.value.errno in {errno.EHOSTUNREACH, errno.ENETUNREACH}


async def test_cancelled_at_each_await() -> None:
    async def life() -> None:
        (await VxlanTransport("localhost/v4").open("me")).close()

    assert await cancel_everywhere(life) > 0


# Frames


@pytest.mark.parametrize(
    ("address", "sources"),
    [
        ("/if=vde0", ("192.168.0.1", "192.168.0.2")),
        ("239.1.1.1/if=vde0/vni=42/port=8472", ("192.168.0.1", "192.168.0.2")),
        ("/v6", ("fd01::1", "fd01::2")),
        ("ff05::1/if=vde0", ("fd01::1", "fd01::2")),
    ],
)
@pytest.mark.parametrize("length", [14, 1514, 9234])
async def test_a_group(
    hosts: list[aioioth.Stack], address: str, sources: tuple[str, str], length: int
) -> None:
    one, two, three = [await open_on(host, address) for host in hosts]
    port = one._port
    with closing(one), closing(two), closing(three):
        sent = (ALL + A + b"\x88\xb5" + os.urandom(9220))[:length]
        assert one.send(sent) == length
        assert await receive(two) == await receive(three) == sent
        answer = A + B + sent[12:]
        assert two.send(memoryview(answer)) == length
        assert await receive(one) == answer
        assert waiting(one) == waiting(three) == []  # no echo, and not for all
        assert [peer[:3] for peer in two.peers] == [(A.hex(":"), sources[0], port)]
        assert [peer[:3] for peer in one.peers] == [(B.hex(":"), sources[1], port)]
        assert counted(one) == counted(two) == counted(three) == {}


@pytest.mark.parametrize("net", ["192.168.0.", "fd01::"])
async def test_one_other_host(hosts: list[aioioth.Stack], net: str) -> None:
    one = await open_on(hosts[0], f"{net}2")
    two = await open_on(hosts[1], f"{net}1")
    three = await open_on(hosts[2], f"{net}1")
    with closing(one), closing(two), closing(three):
        three.send(frame(ALL, B, b"stranger"))
        one.send(frame(ALL, A))
        assert await receive(two) == frame(ALL, A)
        two.send(frame(A, B))
        assert await receive(one) == frame(A, B)
        assert counted(one) == {"stranger": 1}
        assert [peer[:3] for peer in one.peers] == [(B.hex(":"), f"{net}2", 4789)]


async def test_what_comes_is_taken_by_the_rfc() -> None:
    """Source ports are anything, and reserved bits are not looked at."""
    with closing(await VxlanTransport("127.0.0.1").open("me")) as plug:
        with socket.socket(type=socket.SOCK_DGRAM) as peer:
            for datagram in (
                HEADER + frame(ALL, A),
                bytes.fromhex("ffffffff000001ff") + frame(ALL, B),
                b"",
                HEADER + bytes(13),
                HEADER + bytes(9235),
                bytes.fromhex("0800000000000200") + frame(ALL, A),
                bytes.fromhex("f700000000000100") + frame(ALL, A),
            ):
                peer.sendto(datagram, ("127.0.0.1", 4789))
        assert waiting(plug) == [frame(ALL, A), frame(ALL, B)]
        assert counted(plug) == {"short": 2, "long": 1, "wrong network": 2}
        assert {peer.port for peer in plug.peers} == {4789}


async def test_a_closed_one() -> None:
    plug = await VxlanTransport("127.0.0.1").open("me")
    plug.close()
    plug.close()
    assert plug.fileno() == -1
    for use in (lambda: plug.send(frame(ALL, A)), lambda: waiting(plug)):
        with pytest.raises(OSError) as caught:
            use()
        assert caught.value.errno == errno.EBADF


# Whole stacks


@pytest.mark.usefixtures("_loop_is_content")
@pytest.mark.parametrize("address", ["/if=vde0", "/v6"])
async def test_two_stacks_talk(
    hosts: list[aioioth.Stack], address: str, echo: Any
) -> None:
    text = b"abcdefgh" * 20_000
    async with AsyncExitStack() as undo:
        one, two = [
            aioioth.Stack(f"vxlan://{address}", ip=f"10.0.0.{n}/24", mtu=1400)
            for n in (1, 2)
        ]
        for host, stack in zip(hosts[:2], (one, two), strict=True):
            with host.activate(patch=True):
                await undo.enter_async_context(stack)
        await undo.enter_async_context(await one.start_server(echo, "10.0.0.1", 7))
        async with asyncio.timeout(20):
            reader, writer = await two.open_connection("10.0.0.1", 7)
            writer.write(text)
            writer.write_eof()
            assert await reader.read() == text
            writer.close()
            await writer.wait_closed()
