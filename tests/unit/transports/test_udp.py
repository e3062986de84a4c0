"""UDP on the loopback interface. `tests/isolate.py` gives one that is empty."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, strategies as st

import aioioth
from aioioth import abc
from aioioth.errors import BrokenTransportError, ConfigurationError, VnlError
from aioioth.testing import cancel_everywhere
from aioioth_transports import _udp
from aioioth_transports.udp import UdpPlug, UdpTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

FRAME = bytes.fromhex("020000000002 020000000001 88b5") + b"hello"

LOOPBACK = {"ipv4": "127.0.0.1", "ipv6": "[::1]"}
both_families = pytest.mark.parametrize("host", LOOPBACK.values(), ids=LOOPBACK)


def received(plug: abc.Plug) -> list[bytes]:
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


async def pair(host: str = "127.0.0.1") -> tuple[UdpPlug, UdpPlug]:
    one = await UdpTransport(f"{host}:5001->{host}:5002").open("one")
    try:
        return one, await UdpTransport(f"{host}:5002->{host}:5001").open("two")
    except BaseException:
        one.close()
        raise


@pytest.fixture
async def plugs() -> AsyncIterator[tuple[UdpPlug, UdpPlug]]:
    one, two = await pair()
    yield one, two
    one.close()
    two.close()


@pytest.fixture
def stranger() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock


# What may stand there


@pytest.mark.parametrize(
    ("address", "source", "peer"),
    [
        ("5001->127.0.0.1:5002", ("0.0.0.0", 5001), ("127.0.0.1", 5002)),
        ("127.0.0.1:5001->127.0.0.1:1", ("127.0.0.1", 5001), ("127.0.0.1", 1)),
        ("5001->[::1]:65535", ("::", 5001, 0, 0), ("::1", 65535, 0, 0)),
        ("[::1]:5001->[::1]:5002", ("::1", 5001, 0, 0), ("::1", 5002, 0, 0)),
        # As vde_plug takes them.
        ("::1:5001->::1:5002", ("::1", 5001, 0, 0), ("::1", 5002, 0, 0)),
        ("5001->localhost:5002", ("0.0.0.0", 5001), ("127.0.0.1", 5002)),
    ],
)
async def test_an_address(address: str, source: Any, peer: Any) -> None:
    transport = UdpTransport(address)
    assert isinstance(transport, abc.FrameTransport)
    with closing(await transport.open("me")) as plug:
        if "localhost" in address and len(plug._peer) == 4:
            source, peer = ("::", 5001, 0, 0), ("::1", 5002, 0, 0)
        assert plug._socket.getsockname() == source
        assert plug._peer == peer


@pytest.mark.parametrize(
    ("address", "place", "reason"),
    [
        ("", 0, "expected [SRCADDR:]SRCPORT->DSTADDR:DSTPORT"),
        ("5001", 4, "expected [SRCADDR:]SRCPORT->DSTADDR:DSTPORT"),
        ("->h:1", 0, "expected [SRCADDR:]SRCPORT->DSTADDR:DSTPORT"),
        ("x->h:1", 0, "expected [SRCADDR:]SRCPORT->DSTADDR:DSTPORT"),
        ("h:1->", 5, "expected [SRCADDR:]SRCPORT->DSTADDR:DSTPORT"),
        ("1->h:x", 3, "expected [SRCADDR:]SRCPORT->DSTADDR:DSTPORT"),
        ("1->2", 3, "the peer's address is missing"),
        ("0->h:2", 0, "expected a port from 1 to 65535"),
        ("h:65536->h:2", 2, "expected a port from 1 to 65535"),
        ("1->host:70000", 8, "expected a port from 1 to 65535"),
        ("1->[]:7", 3, "expected an address in the brackets"),
        ("1->[::1:7", 3, "expected [SRCADDR:]SRCPORT->DSTADDR:DSTPORT"),
        ("1->a:1->b:2", 3, "expected [SRCADDR:]SRCPORT->DSTADDR:DSTPORT"),
    ],
)
def test_no_address(address: str, place: int, reason: str) -> None:
    with pytest.raises(VnlError) as caught:
        UdpTransport(address)
    assert caught.value.reason.startswith(reason)
    assert caught.value.position == place


@given(st.text(max_size=30) | st.from_regex(r"[\[\]:0-9a-z.]*->[\[\]:0-9a-z.]*"))
def test_any_text_is_an_address_or_one_error(text: str) -> None:
    try:
        UdpTransport(text)
    except VnlError as error:
        position = error.position
    else:
        position = 0
    assert 0 <= position <= len(text)


# Opening


async def test_a_port_that_is_taken() -> None:
    with closing(await UdpTransport("5001->127.0.0.1:1").open("one")):
        with pytest.raises(BrokenTransportError, match="port 5001 is taken") as caught:
            await UdpTransport("5001->127.0.0.1:1").open("two")
    assert caught.value.errno == errno.EADDRINUSE
    assert caught.value.vnl == "udp://5001->127.0.0.1:1"


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("192.0.2.1:5001->127.0.0.1:1", "192.0.2.1 is no address of this host"),
        ("127.0.0.1:5001->[::1]:1", "'127.0.0.1' has no IPv6 address"),
        ("5001->no.such.invalid:1", "'no.such.invalid' has no address"),
        (f"5001->{'x' * 300}:1", f"'{'x' * 300}' has no address"),
        ("5001->a\0b:1", "has no address"),
        ("5001->239.0.0.1:1", "239.0.0.1 is a group, not a peer: see vxvde://"),
        ("5001->[ff02::1]:1", "is a group, not a peer"),
    ],
)
async def test_it_cannot_be_opened(address: str, reason: str) -> None:
    with pytest.raises(BrokenTransportError) as caught:
        await UdpTransport(address).open("me")
    assert reason in str(caught.value)


async def test_a_name_that_nobody_knows_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The resolver is the system's; only how slow it is is made up."""
    release = threading.Event()
    original = socket.getaddrinfo

    def slow(*args: Any) -> Any:
        if not args[5:]:
            release.wait()
        return original(*args)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    monkeypatch.setattr(_udp, "_LOOKUP_SECONDS", 0.01)
    try:
        with pytest.raises(BrokenTransportError, match="no answer within") as caught:
            await UdpTransport("5001->localhost:5002").open("me")
    finally:
        release.set()
    assert caught.value.errno == errno.ETIMEDOUT


async def test_cancelled_at_each_await() -> None:
    async def life() -> None:
        (await UdpTransport("5001->localhost:5002").open("me")).close()

    assert await cancel_everywhere(life) > 0


# Frames


@both_families
@pytest.mark.parametrize("length", [14, 60, 1514, 9234])
async def test_frames_pass(host: str, length: int) -> None:
    one, two = await pair(host)
    frame = FRAME[:14] + os.urandom(length - 14)
    assert isinstance(one, abc.Plug)
    assert one.send(frame) == length
    assert two.send(memoryview(frame)) == length
    assert received(two) == [frame]
    assert received(one) == [frame]
    assert counted(one) == counted(two) == {}
    assert one.mtu == 9216
    one.close()
    two.close()


async def test_strangers_are_dropped_and_counted(
    plugs: tuple[UdpPlug, UdpPlug], stranger: socket.socket
) -> None:
    one, two = plugs
    for _ in range(200):  # more than are read at once
        stranger.sendto(FRAME, ("127.0.0.1", 5002))
    one.send(FRAME)
    frames: list[bytes] = []
    for _ in range(5):
        frames += received(two)
    assert frames == [FRAME]
    assert counted(two) == {"stranger": 200}


async def test_the_peers_address_from_another_port_is_a_stranger(
    plugs: tuple[UdpPlug, UdpPlug], stranger: socket.socket
) -> None:
    _, two = plugs
    stranger.sendto(b"", ("127.0.0.1", 5002))
    stranger.sendto(FRAME, ("127.0.0.1", 5002))
    assert received(two) == []
    assert counted(two) == {"stranger": 2}


async def test_what_is_no_frame_is_dropped_and_counted(
    plugs: tuple[UdpPlug, UdpPlug],
) -> None:
    one, two = plugs
    for length in (0, 1, 13, 9235, 65507, 14):
        one._socket.sendto(bytes(length), ("127.0.0.1", 5002))
    assert received(two) == [bytes(14)]
    assert counted(two) == {"short": 3, "long": 2}


async def test_what_does_not_fit_a_datagram(plugs: tuple[UdpPlug, UdpPlug]) -> None:
    with pytest.raises(OSError) as caught:
        plugs[0].send(bytes(65508))
    assert caught.value.errno == errno.EMSGSIZE


async def test_a_peer_that_is_not_there_is_no_error(
    plugs: tuple[UdpPlug, UdpPlug],
) -> None:
    """The ICMP errors must not be seen, by libuv least of all."""
    one, two = plugs
    loop = asyncio.get_running_loop()
    came = asyncio.Event()
    loop.add_reader(one.fileno(), came.set)
    try:
        two.close()
        for _ in range(3):
            one.send(FRAME)
            await asyncio.sleep(0)
        assert received(one) == []
        two = await UdpTransport("127.0.0.1:5002->127.0.0.1:5001").open("two")
        two.send(FRAME)
        async with asyncio.timeout(10):
            await came.wait()
        assert received(one) == [FRAME]
    finally:
        loop.remove_reader(one.fileno())
        two.close()


async def test_no_route_is_a_drop() -> None:
    with closing(await UdpTransport("5001->192.0.2.1:5002").open("me")) as plug:
        with pytest.raises(OSError) as caught:
            plug.send(FRAME)
    assert caught.value.errno in {errno.EHOSTUNREACH, errno.ENETUNREACH}


async def test_a_broadcast_address_is_a_drop() -> None:
    vnl = "127.0.0.1:5001->255.255.255.255:5002"
    with closing(await UdpTransport(vnl).open("me")) as plug:
        with pytest.raises(OSError) as caught:
            plug.send(FRAME)
    assert caught.value.errno in {errno.EHOSTUNREACH, errno.ENETUNREACH}


async def test_what_nobody_reads_is_counted(plugs: tuple[UdpPlug, UdpPlug]) -> None:
    one, two = plugs
    two._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    for _ in range(100):
        one.send(FRAME)
    arrived = len(received(two))
    assert 0 < arrived < 100
    assert counted(two) == {"receive queue full": 100 - arrived}
    two.close()
    assert counted(two) == {"receive queue full": 100 - arrived}


async def test_a_closed_one(plugs: tuple[UdpPlug, UdpPlug]) -> None:
    one, _ = plugs
    assert one.hangup_fileno() == -1
    one.close()
    one.close()
    assert one.fileno() == -1
    with pytest.raises(OSError) as caught:
        one.send(FRAME)
    assert caught.value.errno == errno.EBADF
    with pytest.raises(OSError) as caught:
        one.recv_into(memoryview(bytearray(65554)))
    assert caught.value.errno == errno.EBADF


@given(data=st.lists(st.binary(max_size=40), max_size=5))
def test_any_datagram_is_a_frame_or_is_counted(data: list[bytes]) -> None:
    with ExitStack() as undo:
        sock, peer = (
            undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            for _ in range(2)
        )
        for each in (sock, peer):
            each.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        plug = undo.enter_context(closing(UdpPlug(sock, peer.getsockname())))
        for each_datagram in data:
            peer.sendto(each_datagram, sock.getsockname())
        assert received(plug) == [each for each in data if len(each) >= 14]
        assert sum(plug.drops.values()) == sum(len(each) < 14 for each in data)


# Whole stacks


@pytest.mark.usefixtures("_loop_is_content")
@both_families
async def test_two_stacks_talk(host: str, echo: Any) -> None:
    text = b"abcdefgh" * 20_000
    async with (
        aioioth.Stack(f"udp://{host}:5001->{host}:5002", ip="10.0.0.1/24") as one,
        aioioth.Stack(f"udp://{host}:5002->{host}:5001", ip="10.0.0.2/24") as two,
        await one.start_server(echo, "10.0.0.1", 7),
        asyncio.timeout(20),
    ):
        reader, writer = await two.open_connection("10.0.0.1", 7)
        writer.write(text)
        writer.write_eof()
        assert await reader.read() == text
        writer.close()
        await writer.wait_closed()


def test_bad_ones_are_configuration_errors() -> None:
    with pytest.raises(ConfigurationError, match=r"udp://1->2\n +\^"):
        aioioth.Stack("udp://1->2")
