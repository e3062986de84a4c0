"""The loop's own calls: one set of assertions, for asyncio's and for a stack's.

On uvloop only ours are run: asyncio is the specification.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import sys
from typing import IO, TYPE_CHECKING, Any, Protocol, TypeVar, overload

import pytest

import aioioth

if TYPE_CHECKING:
    import ssl as ssl_module
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

P = TypeVar("P", bound=asyncio.Protocol)

PATIENCE = 10
PORT = 7007
BOTH = ["127.0.0.1", "::1"]


class Calls(Protocol):
    """What an event loop and a stack both have; `tests/typing` checks that they do."""

    @overload
    async def create_connection(
        self,
        protocol_factory: Callable[[], P],
        host: str = ...,
        port: int = ...,
        *,
        ssl: ssl_module.SSLContext | bool | None = None,
        family: int = 0,
        proto: int = 0,
        flags: int = 0,
        sock: None = None,
        local_addr: tuple[str, int] | None = None,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        happy_eyeballs_delay: float | None = None,
        interleave: int | None = None,
    ) -> tuple[asyncio.Transport, P]: ...
    @overload
    async def create_connection(
        self,
        protocol_factory: Callable[[], P],
        host: None = None,
        port: None = None,
        *,
        ssl: ssl_module.SSLContext | bool | None = None,
        sock: socket.socket,
        server_hostname: str | None = None,
    ) -> tuple[asyncio.Transport, P]: ...

    @overload
    async def create_server(
        self,
        protocol_factory: Callable[[], asyncio.Protocol],
        host: str | Sequence[str] | None,
        port: int,
        *,
        family: int = ...,
        flags: int = ...,
        sock: None = None,
        backlog: int = 100,
        ssl: ssl_module.SSLContext | None = None,
        reuse_address: bool | None = None,
        reuse_port: bool | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        start_serving: bool = True,
    ) -> asyncio.Server: ...
    @overload
    async def create_server(
        self,
        protocol_factory: Callable[[], asyncio.Protocol],
        host: None = None,
        port: None = None,
        *,
        sock: socket.socket,
        backlog: int = 100,
        start_serving: bool = True,
    ) -> asyncio.Server: ...

    async def sock_connect(self, sock: socket.socket, address: Any, /) -> None: ...

    async def getaddrinfo(
        self,
        host: str | None,
        port: int | str | None,
        *,
        family: int = 0,
        type: int = 0,  # noqa: A002  (as the loop's)
        proto: int = 0,
        flags: int = 0,
    ) -> Sequence[tuple[Any, Any, int, str, Any]]: ...

    async def getnameinfo(
        self, sockaddr: tuple[str, int] | tuple[str, int, int, int], flags: int = 0
    ) -> tuple[str, str]: ...

    async def sendfile(
        self,
        transport: asyncio.WriteTransport,
        file: IO[bytes],
        offset: int = 0,
        count: int | None = None,
        *,
        fallback: bool = True,
    ) -> int: ...


@pytest.fixture(params=["asyncio's", "ours"])
async def calls(request: pytest.FixtureRequest) -> AsyncIterator[Calls]:
    if request.param == "asyncio's":
        yield asyncio.get_running_loop()
        return
    async with aioioth.Stack() as stack:
        yield stack


@pytest.fixture
def open_socket(calls: Calls) -> Callable[..., socket.socket]:
    """What makes a socket for the calls; non-blocking."""
    if isinstance(calls, aioioth.Stack):
        return calls.socket

    def host_socket(*args: Any) -> socket.socket:
        sock = socket.socket(*args)
        sock.setblocking(False)
        return sock

    return host_socket


class Heard(asyncio.Protocol):
    """Notes what happens."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.data = b""
        self.transport: Any = None
        self.made: asyncio.Future[None] = loop.create_future()
        self.eof: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[Exception | None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.made.set_result(None)

    def data_received(self, data: bytes) -> None:
        self.data += data

    def eof_received(self) -> None:
        self.eof.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


class Hello(asyncio.Protocol):
    """Greets, and hangs up."""

    def connection_made(self, transport: Any) -> None:
        transport.write(b"hello")
        transport.close()


async def hangs_up(transport: asyncio.Transport, protocol: Heard) -> None:
    transport.close()
    async with asyncio.timeout(PATIENCE):
        await protocol.lost


async def greeted(connecting: Any) -> Any:
    """Wait for a `Hello`; returns the transport, closed."""
    async with asyncio.timeout(PATIENCE):
        transport, protocol = await connecting
        assert await protocol.lost is None
    assert protocol.data == b"hello"
    assert transport.is_closing()
    return transport


async def stop(server: asyncio.Server) -> None:
    server.close()
    async with asyncio.timeout(PATIENCE):
        await server.wait_closed()


# create_connection


@pytest.mark.parametrize(
    "kwds",
    [
        {},
        {"family": socket.AF_INET},
        {"proto": socket.IPPROTO_TCP},
        {"flags": socket.AI_NUMERICHOST},
        {"local_addr": ("127.0.0.3", 0)},
        {"happy_eyeballs_delay": 0.1},
        {"happy_eyeballs_delay": 0.1, "interleave": 2},
        {"interleave": 1},
    ],
    ids=str,
)
async def test_connect(calls: Calls, kwds: dict[str, Any]) -> None:
    async with await calls.create_server(Hello, "127.0.0.1", PORT):
        await greeted(calls.create_connection(Heard, "127.0.0.1", PORT, **kwds))


async def test_connect_a_socket(
    calls: Calls, open_socket: Callable[..., socket.socket]
) -> None:
    async with await calls.create_server(Hello, "127.0.0.1", PORT):
        sock = open_socket()
        await calls.sock_connect(sock, ("127.0.0.1", PORT))
        await greeted(calls.create_connection(Heard, sock=sock))


async def test_what_a_connection_knows(calls: Calls) -> None:
    accepted: list[Heard] = []

    def accept() -> Heard:
        accepted.append(Heard())
        return accepted[0]

    async with await calls.create_server(accept, "::1", PORT):
        transport, protocol = await calls.create_connection(Heard, "::1", PORT)
        async with asyncio.timeout(PATIENCE):
            while not accepted:
                await asyncio.sleep(0)
        own = transport.get_extra_info("sockname")
        assert transport.get_extra_info("peername") == ("::1", PORT, 0, 0)
        assert own[0] == "::1"
        sock = transport.get_extra_info("socket")
        assert sock.getsockname() == own
        assert sock.family == socket.AF_INET6
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert transport.get_extra_info("no such", "default") == "default"
        assert transport.get_protocol() is protocol
        transport.write(b"data")
        transport.write_eof()
        async with asyncio.timeout(PATIENCE):
            await accepted[0].eof
        assert accepted[0].data == b"data"
        assert accepted[0].transport.get_extra_info("peername") == own
        await hangs_up(transport, protocol)
        async with asyncio.timeout(PATIENCE):
            await accepted[0].lost


async def test_writing_pauses(calls: Calls) -> None:
    class Watching(Heard):
        def __init__(self) -> None:
            super().__init__()
            self.happened: list[str] = []
            self.resumed = asyncio.Event()

        def pause_writing(self) -> None:
            self.happened.append("pause")

        def resume_writing(self) -> None:
            self.happened.append("resume")
            self.resumed.set()

    accepted: list[Heard] = []

    def accept() -> Heard:
        accepted.append(Heard())
        return accepted[0]

    async with await calls.create_server(accept, "127.0.0.1", PORT):
        transport, protocol = await calls.create_connection(Watching, "127.0.0.1", PORT)
        async with asyncio.timeout(PATIENCE):
            while not accepted:
                await asyncio.sleep(0)
            await accepted[0].made
        accepted[0].transport.pause_reading()
        transport.set_write_buffer_limits(high=1000, low=100)
        assert transport.get_write_buffer_limits() == (100, 1000)
        size = 0
        while not protocol.happened:
            transport.write(b"x" * 100_000)
            size += 100_000
            await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE):
            accepted[0].transport.resume_reading()
            await protocol.resumed.wait()
        assert protocol.happened == ["pause", "resume"]
        await hangs_up(transport, protocol)
        async with asyncio.timeout(PATIENCE):
            await accepted[0].lost
        assert len(accepted[0].data) == size


# create_server


async def test_one_socket_for_each_address(calls: Calls) -> None:
    async with await calls.create_server(Hello, None, PORT) as server:
        assert sorted(sock.family for sock in server.sockets) == [
            socket.AF_INET,
            socket.AF_INET6,
        ]
        for sock in server.sockets:
            assert sock.getsockname()[1] == PORT
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
            if sock.family == socket.AF_INET6:
                assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        for host in BOTH:
            await greeted(calls.create_connection(Heard, host, PORT))


async def test_one_family(calls: Calls) -> None:
    server = await calls.create_server(Hello, None, PORT, family=socket.AF_INET6)
    assert [sock.family for sock in server.sockets] == [socket.AF_INET6]
    with pytest.raises(ConnectionRefusedError):
        await calls.create_connection(Heard, "127.0.0.1", PORT)
    await stop(server)


async def test_socket_options(calls: Calls) -> None:
    server = await calls.create_server(
        Hello, BOTH, 7017, reuse_address=False, reuse_port=True
    )
    for sock in server.sockets:
        assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
        assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    await stop(server)


async def test_backlog(calls: Calls, open_socket: Callable[..., socket.socket]) -> None:
    """A socket that waits to be accepted counts; the kernel adds one."""
    server = await calls.create_server(
        Hello, "127.0.0.1", PORT, backlog=7, start_serving=False
    )
    await server.start_serving()
    # tcp_info.tcpi_sacked is the backlog of a socket that listens (linux/tcp.h, 6.1).
    info = server.sockets[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
    assert struct.unpack_from("=8B6I", info)[8 + 5] == 7
    await stop(server)


@pytest.mark.parametrize("host", ["127.0.0.1", BOTH], ids=str)
async def test_a_server_that_starts_later(calls: Calls, host: Any) -> None:
    server = await calls.create_server(Hello, host, PORT, start_serving=False)
    assert not server.is_serving()
    assert server.sockets
    with pytest.raises(ConnectionRefusedError):
        await calls.create_connection(Heard, "127.0.0.1", PORT)
    for _ in range(2):
        await server.start_serving()
        assert server.is_serving()
    await greeted(calls.create_connection(Heard, "127.0.0.1", PORT))
    await stop(server)
    assert not server.is_serving()
    assert list(server.sockets) == []
    assert server.get_loop() is asyncio.get_running_loop()
    server.close()  # once more does nothing


async def test_listen_on_a_socket(
    calls: Calls, open_socket: Callable[..., socket.socket]
) -> None:
    sock = open_socket(socket.AF_INET6)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("::1", PORT))
    async with await calls.create_server(Hello, sock=sock, backlog=3) as server:
        assert server.sockets[0].fileno() == sock.fileno()
        await greeted(calls.create_connection(Heard, "::1", PORT))


@pytest.mark.parametrize("host", ["127.0.0.1", BOTH], ids=str)
async def test_serve_forever_has_one_waiter(calls: Calls, host: Any) -> None:
    server = await calls.create_server(Hello, host, PORT)
    serving = asyncio.create_task(server.serve_forever())
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="already being awaited on serve_forever"):
        await server.serve_forever()
    assert server.is_serving()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert not server.is_serving()
    with pytest.raises(RuntimeError, match=r"server .* is closed"):
        await server.serve_forever()


@pytest.mark.parametrize("host", ["127.0.0.1", BOTH], ids=str)
async def test_close_ends_serve_forever(calls: Calls, host: Any) -> None:
    server = await calls.create_server(Hello, host, PORT)
    serving = asyncio.create_task(server.serve_forever())
    await asyncio.sleep(0)
    server.close()
    with pytest.raises(asyncio.CancelledError):
        await serving


@pytest.mark.parametrize("host", ["127.0.0.1", BOTH], ids=str)
async def test_a_server_in_a_block(calls: Calls, host: Any) -> None:
    async with await calls.create_server(Hello, host, PORT) as server:
        assert server.is_serving()
    assert not server.is_serving()
    assert "Server" in repr(server)


@pytest.mark.parametrize("host", ["127.0.0.1", BOTH], ids=str)
async def test_closing_waits_for_connections(calls: Calls, host: Any) -> None:
    """Since Python 3.12; before, and on uvloop (0.23), only for the server itself."""
    accepted: list[Heard] = []

    def accept() -> Heard:
        accepted.append(Heard())
        return accepted[0]

    server = await calls.create_server(accept, host, PORT)
    transport, protocol = await calls.create_connection(Heard, "127.0.0.1", PORT)
    async with asyncio.timeout(PATIENCE):
        while not accepted:
            await asyncio.sleep(0)
        await accepted[0].made
    server.close()
    closed = asyncio.create_task(server.wait_closed())
    for _ in range(10):
        await asyncio.sleep(0)
    uvloop = "uvloop" in type(asyncio.get_running_loop()).__module__
    assert closed.done() == (sys.version_info < (3, 12) or uvloop)
    await hangs_up(transport, protocol)  # the connection went on
    async with asyncio.timeout(PATIENCE):
        await accepted[0].lost
        await closed


@pytest.mark.parametrize("host", ["127.0.0.1", BOTH], ids=str)
@pytest.mark.parametrize("how", ["close_clients", "abort_clients"])
@pytest.mark.skipif(sys.version_info < (3, 13), reason="asyncio has it since 3.13")
@pytest.mark.asyncio(loop_factories=["asyncio"])  # uvloop does not have it
async def test_clients(calls: Calls, how: str, host: Any) -> None:
    accepted: list[Heard] = []

    def accept() -> Heard:
        accepted.append(Heard())
        return accepted[0]

    server: Any = await calls.create_server(accept, host, PORT)
    transport, protocol = await calls.create_connection(Heard, "127.0.0.1", PORT)
    async with asyncio.timeout(PATIENCE):
        while not accepted:
            await asyncio.sleep(0)
        await accepted[0].made
        server.close()
        getattr(server, how)()
        await server.wait_closed()
        await protocol.lost
    transport.close()


# Sockets of a stack, and the loop's own calls


async def test_the_loops_own_calls_take_sockets(
    calls: Calls, open_socket: Callable[..., socket.socket]
) -> None:
    loop = asyncio.get_running_loop()
    listening = open_socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", PORT))
    listening.listen()
    client = open_socket()
    async with asyncio.timeout(PATIENCE):
        accepting = asyncio.create_task(loop.sock_accept(listening))
        await calls.sock_connect(client, ("127.0.0.1", PORT))
        served, address = await accepting
        assert address == client.getsockname()
        assert served.gettimeout() == 0
        await loop.sock_sendall(client, b"one, two")
        assert await loop.sock_recv(served, 5) == b"one, "
        buffer = bytearray(10)
        assert await loop.sock_recv_into(served, buffer) == 3
        assert buffer.startswith(b"two")
        client.close()
        assert await loop.sock_recv(served, 5) == b""
    served.close()
    listening.close()


async def test_the_loops_own_sock_connect(
    calls: Calls, open_socket: Callable[..., socket.socket]
) -> None:
    """It works with literal addresses; uvloop asks the host's resolver about them."""
    loop = asyncio.get_running_loop()
    async with await calls.create_server(Hello, None, PORT):
        for family, host in (socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"):
            sock = open_socket(family)
            async with asyncio.timeout(PATIENCE):
                await loop.sock_connect(sock, (host, PORT))
                assert await loop.sock_recv(sock, 100) == b"hello"
            sock.close()


async def test_the_loops_own_datagram_calls(
    calls: Calls, open_socket: Callable[..., socket.socket]
) -> None:
    loop = asyncio.get_running_loop()
    if "uvloop" in type(loop).__module__:
        pytest.skip("uvloop (0.23) has no sock_recvfrom and sock_sendto")
    one, two = (open_socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    one.bind(("127.0.0.1", 0))
    two.bind(("127.0.0.1", 0))
    async with asyncio.timeout(PATIENCE):
        assert await loop.sock_sendto(one, b"data", two.getsockname()) == 4
        assert await loop.sock_recvfrom(two, 100) == (b"data", one.getsockname())
        assert await loop.sock_sendto(two, b"back", one.getsockname()) == 4
        buffer = bytearray(10)
        assert await loop.sock_recvfrom_into(one, buffer) == (4, two.getsockname())
    one.close()
    two.close()


async def test_sock_connect_looks_up(
    calls: Calls, open_socket: Callable[..., socket.socket]
) -> None:
    async with await calls.create_server(Hello, "127.0.0.1", PORT):
        sock = open_socket()
        await calls.sock_connect(sock, ("localhost", PORT))
        assert sock.getpeername() == ("127.0.0.1", PORT)
        sock.close()


async def test_sock_connect_a_datagram_socket(
    calls: Calls, open_socket: Callable[..., socket.socket]
) -> None:
    sock = open_socket(socket.AF_INET6, socket.SOCK_DGRAM)
    await calls.sock_connect(sock, ("::1", 9, 0, 0))
    assert sock.getpeername() == ("::1", 9, 0, 0)
    sock.close()


async def test_sock_connect_wants_a_nonblocking_socket(
    calls: Calls, open_socket: Callable[..., socket.socket]
) -> None:
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    sock = open_socket()
    sock.setblocking(True)
    with pytest.raises(ValueError, match="the socket must be non-blocking"):
        await calls.sock_connect(sock, ("127.0.0.1", PORT))
    sock.close()


# sendfile


class Collecting(Heard):
    """Takes a file; the test reads what came."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 4096)  # a MiB, more than socket buffers hold
    return path


@pytest.mark.parametrize(
    ("offset", "count"), [(0, None), (1000, None), (1000, 500_000), (0, 5), (2**20, 1)]
)
async def test_sendfile(
    calls: Calls, file: Path, offset: int, count: int | None
) -> None:
    accepted: list[Heard] = []

    def accept() -> Heard:
        accepted.append(Heard())
        return accepted[0]

    whole = file.read_bytes()
    expected = whole[offset:] if count is None else whole[offset : offset + count]
    async with await calls.create_server(accept, "127.0.0.1", PORT):
        transport, protocol = await calls.create_connection(Heard, "127.0.0.1", PORT)
        with file.open("rb") as opened:
            async with asyncio.timeout(PATIENCE):
                sent = await calls.sendfile(transport, opened, offset, count)
            assert sent == len(expected)
            if sent:
                assert opened.tell() == offset + sent
        assert transport.get_protocol() is protocol
        transport.write(b", and more")
        await hangs_up(transport, protocol)
        async with asyncio.timeout(PATIENCE):
            await accepted[0].lost
    assert accepted[0].data == expected + b", and more"


@pytest.mark.parametrize(
    ("args", "error", "text"),
    [
        ((0, 0), ValueError, "count must be a positive integer (got 0)"),
        ((0, -1), ValueError, "count must be a positive integer (got -1)"),
        ((0, "1"), TypeError, "count must be a positive integer (got '1')"),
        ((-1,), ValueError, "offset must be a non-negative integer (got -1)"),
        (("0",), TypeError, "offset must be a non-negative integer (got '0')"),
    ],
)
async def test_what_sendfile_does_not_take(
    calls: Calls, file: Path, args: Any, error: Any, text: str
) -> None:
    async with await calls.create_server(Heard, "127.0.0.1", PORT):
        transport, protocol = await calls.create_connection(Heard, "127.0.0.1", PORT)
        with file.open("rb") as opened, pytest.raises(error) as caught:
            await calls.sendfile(transport, opened, *args)
        assert str(caught.value) == text
        with file.open() as text_file, pytest.raises(ValueError, match="binary mode"):
            await calls.sendfile(transport, text_file)  # type: ignore[arg-type]
        await hangs_up(transport, protocol)
        with file.open("rb") as opened, pytest.raises(RuntimeError) as closed:
            await calls.sendfile(transport, opened)
        assert str(closed.value) == "Transport is closing"


# Names


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("127.0.0.1", 53),
        ("::1", "53"),
        ("localhost", "domain"),
        (None, "domain"),
        ("fe80::1%lo", 53),
        ("localhost", None),
    ],
)
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
async def test_getaddrinfo(calls: Calls, host: Any, port: Any, kind: int) -> None:
    found = await calls.getaddrinfo(host, port, type=kind, flags=socket.AI_PASSIVE)
    assert {info[4][1] for info in found} == {0 if port is None else 53}
    assert {info[1] for info in found} == {kind}
    hosts = {info[4][0] for info in found}
    if host is None:
        assert hosts == {"0.0.0.0", "::"}
    elif host == "localhost":
        assert hosts <= {"127.0.0.1", "::1"}
    else:
        # Python 3.11 to 3.13 and glibc: the scope is a number in the last place.
        assert {each.partition("%")[0] for each in hosts} == {host.partition("%")[0]}
        if "%" in host:
            assert [info[4][3] for info in found] == [socket.if_nametoindex("lo")]


@pytest.mark.parametrize(
    ("address", "flags", "expected"),
    [
        (("127.0.0.1", 80), socket.NI_NUMERICHOST, ("127.0.0.1", "http")),
        (
            ("::1", 80, 0, 0),
            socket.NI_NUMERICHOST | socket.NI_NUMERICSERV,
            ("::1", "80"),
        ),
        (("127.0.0.1", 80), 0, ("localhost", "http")),
        (
            ("127.0.0.1", 53),
            socket.NI_DGRAM | socket.NI_NUMERICHOST,
            ("127.0.0.1", "domain"),
        ),
    ],
)
async def test_getnameinfo(
    calls: Calls, address: Any, flags: int, expected: Any
) -> None:
    assert await calls.getnameinfo(address, flags) == expected


# What only a stack has


@pytest.fixture
async def stack() -> AsyncIterator[aioioth.Stack]:
    async with aioioth.Stack() as opened:
        yield opened


async def readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(sock, ready.set_result, None)
    try:
        async with asyncio.timeout(PATIENCE):
            await ready
    finally:
        loop.remove_reader(sock)


def checksum(data: bytes) -> int:
    """RFC 1071."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    checked: int = ~(total + (total >> 16)) & 0xFFFF
    return checked


async def test_a_raw_socket_pings(stack: aioioth.Stack) -> None:
    """Root and ordinary users alike."""
    unchecked = struct.pack("!BBHHH", 8, 0, 0, 77, 1) + b"payload."
    request = unchecked[:2] + struct.pack("!H", checksum(unchecked)) + unchecked[4:]
    with stack.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        sock.connect(("127.0.0.1", 0))
        sock.send(request)
        kind, icmp = 8, b""
        while kind == 8:  # the request comes by, too
            await readable(sock)
            packet = sock.recv(100)
            icmp = packet[(packet[0] & 0xF) * 4 :]
            kind = icmp[0]
    assert icmp[0] == 0
    assert icmp[4:] == request[4:]


async def test_a_packet_socket(stack: aioioth.Stack) -> None:
    ethertype = 0x88B5  # IEEE 802: for local experiments
    with stack.socket(
        socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ethertype)
    ) as sock:
        sock.bind(("lo", ethertype))
        sock.sendto(b"a frame", ("lo", ethertype))
        await readable(sock)
        assert sock.recv(100) == b"a frame"


async def test_a_netlink_socket(stack: aioioth.Stack) -> None:
    getlink, newlink, dump = 18, 16, 0x300 | 1  # <linux/rtnetlink.h>, Linux 6.1
    with stack.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        sock.bind((0, 0))
        sock.send(struct.pack("=IHHII16x", 32, getlink, dump, 1, 0))
        await readable(sock)
        answer = sock.recv(65536)
    assert struct.unpack_from("=IH", answer)[1] == newlink
    assert b"lo\0" in answer


async def test_a_unix_socket_has_the_stacks_abstract_names(
    stack: aioioth.Stack,
) -> None:
    name = f"\0aioioth-test-{os.getpid()}"
    with (
        stack.socket(socket.AF_UNIX) as inside,
        socket.socket(socket.AF_UNIX) as outside,
    ):
        inside.bind(name)
        inside.listen()
        with pytest.raises(ConnectionRefusedError):
            outside.connect(name)


async def test_all_errors(stack: aioioth.Stack) -> None:
    """asyncio has it since Python 3.12; a stack always. Failed binds count, too."""
    with pytest.raises(ExceptionGroup, match="create_connection failed") as caught:
        await stack.create_connection(
            Heard,
            "localhost",
            PORT,
            local_addr=("10.7.7.7", 0),
            all_errors=True,
        )
    errors: Any = caught.value.exceptions
    numbers = {error.errno for error in errors}
    assert numbers == {errno.EADDRNOTAVAIL, None}
