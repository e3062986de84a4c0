"""`create_datagram_endpoint`: one set of assertions, for asyncio's and for a stack's.

On uvloop only ours are run: asyncio is the specification.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pytest

import aioioth

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

P = TypeVar("P", bound=asyncio.DatagramProtocol)

PATIENCE = 10
PORT = 7007
LOOPBACKS = ["127.0.0.1", "::1"]


class DatagramCalls(Protocol):
    """What an event loop and a stack both have; `tests/typing` checks that they do."""

    async def create_datagram_endpoint(
        self,
        protocol_factory: Callable[[], P],
        local_addr: tuple[str, int] | None = None,
        remote_addr: tuple[str, int] | None = None,
        *,
        family: int = 0,
        proto: int = 0,
        flags: int = 0,
        reuse_port: bool | None = None,
        allow_broadcast: bool | None = None,
        sock: socket.socket | None = None,
    ) -> tuple[asyncio.DatagramTransport, P]: ...


@pytest.fixture(params=["asyncio's", "ours"])
async def calls(request: pytest.FixtureRequest) -> AsyncIterator[DatagramCalls]:
    if request.param == "asyncio's":
        yield asyncio.get_running_loop()
        return
    async with aioioth.Stack() as stack:
        yield stack


def on_uvloop() -> bool:
    return "uvloop" in type(asyncio.get_running_loop()).__module__


class Heard(asyncio.DatagramProtocol):
    """Keeps what comes."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.datagrams: asyncio.Queue[tuple[bytes, Any]] = asyncio.Queue()
        self.errors: asyncio.Queue[Exception] = asyncio.Queue()
        self.writing: list[str] = []
        self.lost: asyncio.Future[Exception | None] = (
            asyncio.get_running_loop().create_future()
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.datagrams.put_nowait((data, addr))

    def error_received(self, exc: Exception) -> None:
        self.errors.put_nowait(exc)

    def pause_writing(self) -> None:
        self.writing.append("pause")

    def resume_writing(self) -> None:
        self.writing.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)

    async def next(self) -> tuple[bytes, Any]:
        async with asyncio.timeout(PATIENCE):
            return await self.datagrams.get()

    async def error(self) -> Exception:
        async with asyncio.timeout(PATIENCE):
            return await self.errors.get()


@asynccontextmanager
async def endpoint(
    calls: DatagramCalls, *args: Any, **kwds: Any
) -> AsyncIterator[tuple[asyncio.DatagramTransport, Heard]]:
    transport, protocol = await calls.create_datagram_endpoint(Heard, *args, **kwds)
    try:
        yield transport, protocol
    finally:
        transport.close()
        async with asyncio.timeout(PATIENCE):
            assert await protocol.lost is None


@pytest.mark.parametrize("host", LOOPBACKS)
async def test_to_and_fro(calls: DatagramCalls, host: str) -> None:
    async with (
        endpoint(calls, (host, PORT)) as (server, served),
        endpoint(calls, remote_addr=(host, PORT)) as (client, answered),
    ):
        own = client.get_extra_info("sockname")
        assert own[0] == host
        client.sendto(b"one")
        assert await served.next() == (b"one", own)
        server.sendto(b"answer", own)
        address = server.get_extra_info("sockname")
        assert await answered.next() == (b"answer", address)
        client.sendto(memoryview(b"two"), address)  # itself may be named
        assert await served.next() == (b"two", own)


@pytest.mark.parametrize("host", LOOPBACKS)
async def test_what_an_endpoint_knows(calls: DatagramCalls, host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    async with (
        endpoint(calls, (host, PORT)) as (server, served),
        endpoint(calls, (host, 0), (host, PORT)) as (client, protocol),
    ):
        assert server.get_extra_info("sockname")[:2] == (host, PORT)
        assert server.get_extra_info("peername") is None
        assert client.get_extra_info("peername")[:2] == (host, PORT)
        sock = client.get_extra_info("socket")
        assert sock.family == family
        assert sock.type == socket.SOCK_DGRAM
        assert sock.getsockname() == client.get_extra_info("sockname")
        assert client.get_extra_info("nothing", "default") == "default"
        for transport, known in (server, served), (client, protocol):
            assert known.transport is transport
            assert transport.get_protocol() is known
            assert not transport.is_closing()
    assert client.is_closing()
    assert server.is_closing()


async def test_bound_to_both_ends(calls: DatagramCalls) -> None:
    async with (
        endpoint(calls, ("127.0.0.1", PORT)) as (_, served),
        endpoint(calls, ("127.0.0.2", 7100), ("127.0.0.1", PORT)) as (client, answered),
        endpoint(calls, ("127.0.0.3", 0)) as (stranger, _),
    ):
        client.sendto(b"from here")
        assert await served.next() == (b"from here", ("127.0.0.2", 7100))
        # A connected socket hears nobody else.
        stranger.sendto(b"not heard", ("127.0.0.2", 7100))
        stranger.sendto(b"heard", ("127.0.0.1", PORT))
        assert (await served.next())[0] == b"heard"
        assert answered.datagrams.empty()


async def test_localhost(calls: DatagramCalls) -> None:
    async with (
        endpoint(calls, ("localhost", PORT), family=socket.AF_INET) as (_, served),
        endpoint(calls, remote_addr=("localhost", PORT), family=socket.AF_INET) as (
            client,
            _,
        ),
    ):
        client.sendto(b"by name")
        assert (await served.next())[0] == b"by name"


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
async def test_a_family_only(calls: DatagramCalls, family: int) -> None:
    host = LOOPBACKS[family == socket.AF_INET6]
    async with (
        endpoint(calls, (host, PORT)) as (_, served),
        endpoint(calls, family=family) as (client, _),
    ):
        client.sendto(b"from anywhere", (host, PORT))
        data, address = await served.next()
        assert (data, address[0]) == (b"from anywhere", host)


async def test_a_socket(calls: DatagramCalls) -> None:
    make = calls.socket if isinstance(calls, aioioth.Stack) else socket.socket
    sock = make(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", PORT))
    async with (
        endpoint(calls, sock=sock) as (server, served),
        endpoint(calls, ("127.0.0.1", 0)) as (client, _),
    ):
        assert server.get_extra_info("socket").fileno() == sock.fileno()
        client.sendto(b"ready made", ("127.0.0.1", PORT))
        assert (await served.next())[0] == b"ready made"
    assert sock.fileno() == -1


async def test_sockets_and_addresses_exclude_each_other(calls: DatagramCalls) -> None:
    make = calls.socket if isinstance(calls, aioioth.Stack) else socket.socket
    with make(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        with pytest.raises(ValueError, match="modifier keyword arguments") as caught:
            await calls.create_datagram_endpoint(
                Heard, ("127.0.0.1", 1), reuse_port=True, sock=sock
            )
        assert "(local_addr=('127.0.0.1', 1), reuse_port=True)" in str(caught.value)
    with make(socket.AF_INET, socket.SOCK_STREAM) as sock:
        with pytest.raises(ValueError, match="ocket was expected, got"):
            await calls.create_datagram_endpoint(Heard, sock=sock)


@pytest.mark.parametrize(
    ("args", "kwds", "error", "text"),
    [
        ((), {}, ValueError, "unexpected address family"),
        (("127.0.0.1",), {}, TypeError, "2-tuple is expected"),
        ((("127.0.0.1", 1, 2),), {}, TypeError, "2-tuple is expected"),
        (
            (("127.0.0.1", 0), ("::1", 7)),
            {},
            ValueError,
            "can not get address information",
        ),
    ],
)
async def test_arguments_that_do_not_fit(
    calls: DatagramCalls, args: Any, kwds: Any, error: Any, text: str
) -> None:
    with pytest.raises(error) as caught:
        await calls.create_datagram_endpoint(Heard, *args, **kwds)
    assert str(caught.value) == text


async def test_ports_are_shared_if_wanted(calls: DatagramCalls) -> None:
    async with (
        endpoint(calls, ("127.0.0.1", PORT), reuse_port=True),
        endpoint(calls, ("127.0.0.1", PORT), reuse_port=True) as (second, _),
    ):
        sock = second.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
    # Another port: uvloop lets go of a socket some time after connection_lost().
    async with endpoint(calls, ("127.0.0.1", PORT + 1)):
        with pytest.raises(OSError, match="Address already in use"):
            await calls.create_datagram_endpoint(Heard, ("127.0.0.1", PORT + 1))


@pytest.mark.parametrize("broadcast", [False, True])
@pytest.mark.parametrize("host", LOOPBACKS)
async def test_only_the_remote_address_is_sent_to(
    calls: DatagramCalls, host: str, broadcast: bool
) -> None:
    async with endpoint(calls, remote_addr=(host, PORT), allow_broadcast=broadcast) as (
        client,
        _,
    ):
        remote = (host, PORT) if host == "127.0.0.1" else (host, PORT, 0, 0)
        for other in (host, PORT + 1), [host, PORT]:
            with pytest.raises(ValueError, match="Invalid address: must be") as caught:
                client.sendto(b"elsewhere", other)  # type: ignore[arg-type]
            assert str(caught.value) == f"Invalid address: must be None or {remote}"


@pytest.mark.parametrize("args", [(("127.0.0.1", 0),), (None, ("127.0.0.1", PORT))])
async def test_only_bytes_are_sent(calls: DatagramCalls, args: Any) -> None:
    async with endpoint(calls, *args) as (client, _):
        to = args[1] if len(args) > 1 else ("127.0.0.1", PORT)
        with pytest.raises(TypeError):
            client.sendto("text", to)  # type: ignore[arg-type]


@pytest.mark.parametrize("host", LOOPBACKS)
async def test_a_refusal_is_received(calls: DatagramCalls, host: str) -> None:
    async with endpoint(calls, remote_addr=(host, PORT)) as (client, protocol):
        client.sendto(b"nobody there")
        error = await protocol.error()
        assert isinstance(error, ConnectionRefusedError)
        assert error.errno == errno.ECONNREFUSED
        # And it goes on.
        async with endpoint(calls, (host, PORT)) as (_, served):
            client.sendto(b"again")
            assert (await served.next())[0] == b"again"


async def test_a_datagram_that_is_too_long(calls: DatagramCalls) -> None:
    async with endpoint(calls, ("127.0.0.1", 0)) as (client, protocol):
        client.sendto(bytes(66_000), ("127.0.0.1", PORT))
        error = await protocol.error()
        assert isinstance(error, OSError)
        assert error.errno == errno.EMSGSIZE


async def test_broadcasting_needs_leave(calls: DatagramCalls) -> None:
    async with endpoint(calls, ("127.0.0.1", 0)) as (client, protocol):
        client.sendto(b"hey", ("127.255.255.255", PORT))
        error = await protocol.error()
        assert isinstance(error, PermissionError)
        assert error.errno == errno.EACCES
    async with (
        endpoint(calls, ("127.255.255.255", PORT)) as (_, served),
        endpoint(calls, ("127.0.0.1", 0), allow_broadcast=True) as (client, _),
    ):
        sock = client.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST)
        client.sendto(b"hey", ("127.255.255.255", PORT))
        assert (await served.next())[0] == b"hey"


async def test_answers_to_a_broadcast_come_from_many(calls: DatagramCalls) -> None:
    """With allow_broadcast the socket is not connected; the address stays the only."""
    async with (
        endpoint(calls, ("127.0.0.1", PORT)) as (server, served),
        endpoint(calls, ("127.0.0.2", PORT)) as (other, _),
        endpoint(calls, remote_addr=("127.0.0.1", PORT), allow_broadcast=True) as (
            client,
            answered,
        ),
    ):
        assert client.get_extra_info("peername") is None
        client.sendto(b"who?")
        _, address = await served.next()
        for answering in server, other:
            answering.sendto(b"me", ("127.0.0.1", address[1]))
        hosts = {(await answered.next())[1][0] for _ in range(2)}
        assert hosts == {"127.0.0.1", "127.0.0.2"}


async def test_write_buffer_limits(calls: DatagramCalls) -> None:
    async with (
        endpoint(calls, ("127.0.0.1", PORT)) as (_, served),
        endpoint(calls, remote_addr=("127.0.0.1", PORT)) as (client, protocol),
    ):
        transport: Any = client
        transport.set_write_buffer_limits(high=5000, low=100)
        if not on_uvloop():  # which has no get_write_buffer_limits here
            assert transport.get_write_buffer_limits() == (100, 5000)
        assert transport.get_write_buffer_size() == 0
        client.sendto(b"not kept back")
        assert (await served.next())[0] == b"not kept back"
        assert protocol.writing == []


async def test_nothing_is_sent_since_3_13(calls: DatagramCalls) -> None:
    """An empty datagram; before, and on uvloop (0.23), it is dropped."""
    sent = sys.version_info >= (3, 13) and not on_uvloop()
    async with (
        endpoint(calls, ("127.0.0.1", PORT)) as (_, served),
        endpoint(calls, remote_addr=("127.0.0.1", PORT)) as (client, _),
    ):
        client.sendto(b"")
        client.sendto(b"something")
        assert (await served.next())[0] == (b"" if sent else b"something")


async def test_another_protocol(calls: DatagramCalls) -> None:
    async with endpoint(calls, ("127.0.0.1", PORT)) as (_, served):
        transport, first = await calls.create_datagram_endpoint(
            Heard, remote_addr=("127.0.0.1", PORT)
        )
        second = Heard()
        transport.set_protocol(second)
        assert transport.get_protocol() is second
        transport.sendto(b"question")
        _, address = await served.next()
        served.transport.sendto(b"answer", address)
        assert (await second.next())[0] == b"answer"
        assert first.datagrams.empty()
        transport.abort()
        async with asyncio.timeout(PATIENCE):
            assert await second.lost is None
        assert not first.lost.done()


async def test_sending_after_closing(calls: DatagramCalls) -> None:
    async with endpoint(calls, ("127.0.0.1", PORT)) as (server, served):
        transport, protocol = await calls.create_datagram_endpoint(
            Heard, remote_addr=("127.0.0.1", PORT)
        )
        transport.close()
        transport.close()
        async with asyncio.timeout(PATIENCE):
            assert await protocol.lost is None
        assert transport.is_closing()
        server.sendto(b"last", ("127.0.0.1", PORT))
        assert (await served.next())[0] == b"last"


# Between stacks


@asynccontextmanager
async def neighbours() -> AsyncIterator[tuple[aioioth.Stack, aioioth.Stack]]:
    async with (
        aioioth.Stack("memory://lan", ip=["10.0.0.1/24", "fd00::1/64"]) as one,
        aioioth.Stack("memory://lan", ip=["10.0.0.2/24", "fd00::2/64"]) as two,
    ):
        yield one, two


async def test_between_two_stacks() -> None:
    async with neighbours() as (one, two):
        for host in "10.0.0.1", "fd00::1":
            async with (
                endpoint(one, (host, PORT)) as (server, served),
                endpoint(two, remote_addr=(host, PORT)) as (client, answered),
            ):
                client.sendto(b"over the wire")
                data, address = await served.next()
                server.sendto(data.upper(), address)
                assert (await answered.next())[0] == b"OVER THE WIRE"


async def test_a_broadcast_reaches_the_others() -> None:
    async with (
        neighbours() as (one, two),
        endpoint(one, ("0.0.0.0", PORT)) as (_, served),
        endpoint(two, ("10.0.0.2", 0), allow_broadcast=True) as (client, _),
    ):
        for target in "10.0.0.255", "255.255.255.255", "<broadcast>":
            client.sendto(b"all", (target, PORT))
            data, address = await served.next()
            assert (data, address[0]) == (b"all", "10.0.0.2")


def join4(transport: asyncio.BaseTransport, group: str, own: str) -> None:
    request = socket.inet_aton(group) + socket.inet_aton(own)
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)


def join6(transport: asyncio.BaseTransport, group: str, index: int) -> None:
    request = socket.inet_pton(socket.AF_INET6, group) + struct.pack("=I", index)
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)


async def test_multicast_reaches_who_joined() -> None:
    group = "239.7.7.7"
    async with (
        neighbours() as (one, two),
        endpoint(one, ("0.0.0.0", PORT)) as (receiver, served),
        endpoint(two, ("10.0.0.2", 0)) as (sender, _),
    ):
        join4(receiver, group, "10.0.0.1")
        sock = sender.get_extra_info("socket")
        sock.setsockopt(
            socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("10.0.0.2")
        )
        sender.sendto(b"group", (group, PORT))
        data, address = await served.next()
        assert (data, address[0]) == (b"group", "10.0.0.2")


async def test_multicast_over_ipv6() -> None:
    group = "ff02::7:7"
    async with neighbours() as (one, two):
        there = one.interfaces["vde0"].index
        here = two.interfaces["vde0"].index
        async with (
            endpoint(one, ("::", PORT), family=socket.AF_INET6) as (receiver, served),
            endpoint(two, ("::", 0), family=socket.AF_INET6) as (sender, _),
        ):
            join6(receiver, group, there)
            sender.sendto(b"group", (group, PORT, 0, here))
            assert (await served.next())[0] == b"group"


async def test_multicast_inside_a_stack() -> None:
    group = "239.7.7.7"
    async with (
        aioioth.Stack("null://", ip="10.0.0.1/24") as stack,
        endpoint(stack, ("0.0.0.0", PORT)) as (receiver, served),
        endpoint(stack, ("10.0.0.1", 0)) as (sender, _),
    ):
        join4(receiver, group, "10.0.0.1")
        sock = sender.get_extra_info("socket")
        sock.setsockopt(
            socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("10.0.0.1")
        )
        sender.sendto(b"group", (group, PORT))
        assert (await served.next())[0] == b"group"


async def test_writing_pauses_when_the_neighbour_is_silent() -> None:
    """Who answers no ARP fills the socket's buffer, and then the transport's."""
    async with aioioth.Stack("null://", ip="10.0.0.1/24") as stack:
        transport, protocol = await stack.create_datagram_endpoint(
            Heard, remote_addr=("10.0.0.9", PORT)
        )
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the least there is
        anything: Any = transport
        anything.set_write_buffer_limits(high=3000)
        for _ in range(20):
            transport.sendto(bytes(1000))
        assert protocol.writing == ["pause"]
        assert anything.get_write_buffer_size() > 3000
        transport.abort()
        async with asyncio.timeout(PATIENCE):
            await protocol.lost
