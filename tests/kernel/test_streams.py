"""asyncio is the specification: the same calls, on the host's stack and on ours."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

import aioioth

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path


class Calls:
    """open_connection and start_server of one of the two."""

    def __init__(self, stack: aioioth.Stack | None) -> None:
        self.stack = stack

    async def open_connection(self, *args: Any, **kwds: Any) -> Any:
        if self.stack is None:
            return await asyncio.open_connection(*args, **kwds)
        return await aioioth.open_connection(*args, stack=self.stack, **kwds)

    async def start_server(self, *args: Any, **kwds: Any) -> Any:
        if self.stack is None:
            return await asyncio.start_server(*args, **kwds)
        return await aioioth.start_server(*args, stack=self.stack, **kwds)


@pytest.fixture(params=["asyncio's", "ours"])
async def calls(request: pytest.FixtureRequest) -> AsyncIterator[Calls]:
    if request.param == "asyncio's":
        yield Calls(None)
        return
    async with aioioth.Stack() as stack:
        yield Calls(stack)


async def hello(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"hello")
    writer.close()
    await writer.wait_closed()


async def heard(connecting: Any) -> bytes:
    async with asyncio.timeout(10):
        reader, writer = await connecting
        data: bytes = await reader.read()
        writer.close()
        await writer.wait_closed()
    return data


def port_of(server: Any) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", [("127.0.0.1", socket.AF_INET)]),
        ("::1", [("::1", socket.AF_INET6)]),
        (
            ["127.0.0.1", "::1"],
            [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)],
        ),
        (["127.0.0.1", "127.0.0.1"], [("127.0.0.1", socket.AF_INET)]),
        (None, [("0.0.0.0", socket.AF_INET), ("::", socket.AF_INET6)]),
        ("", [("0.0.0.0", socket.AF_INET), ("::", socket.AF_INET6)]),
    ],
)
async def test_where_a_server_listens(calls: Calls, host: Any, expected: Any) -> None:
    async with await calls.start_server(hello, host, 7007) as server:
        listening = [(s.getsockname()[0], s.family) for s in server.sockets]
        assert sorted(listening) == sorted(expected)
        assert isinstance(server, asyncio.Server)
        assert server.is_serving()
        assert server.get_loop() is asyncio.get_running_loop()
        for address, _ in listening:
            own = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
            assert await heard(calls.open_connection(own, 7007)) == b"hello"
    assert not server.is_serving()
    assert len(server.sockets) == 0


async def test_localhost(calls: Calls) -> None:
    async with await calls.start_server(hello, "localhost", 7007) as server:
        assert {s.getsockname()[0] for s in server.sockets} <= {"127.0.0.1", "::1"}
        assert await heard(calls.open_connection("localhost", 7007)) == b"hello"


async def test_start_serving_later(calls: Calls) -> None:
    for host in "127.0.0.1", ["127.0.0.1", "::1"]:
        server = await calls.start_server(hello, host, 7007, start_serving=False)
        assert not server.is_serving()
        with pytest.raises(ConnectionRefusedError):
            await calls.open_connection("127.0.0.1", 7007)
        await server.start_serving()
        assert server.is_serving()
        assert await heard(calls.open_connection("127.0.0.1", 7007)) == b"hello"
        server.close()
        await server.wait_closed()


async def test_serve_forever(calls: Calls) -> None:
    for host in "127.0.0.1", ["127.0.0.1", "::1"]:
        server = await calls.start_server(hello, host, 7007, start_serving=False)
        serving = asyncio.create_task(server.serve_forever())
        while not server.is_serving():
            await asyncio.sleep(0)
        assert await heard(calls.open_connection("127.0.0.1", 7007)) == b"hello"
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert not server.is_serving()
        with pytest.raises(RuntimeError, match="is closed"):
            await server.serve_forever()


async def test_local_address(calls: Calls) -> None:
    seen = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer.get_extra_info("peername")[:2])
        await hello(reader, writer)

    async with await calls.start_server(note, "127.0.0.1", 7007):
        await heard(
            calls.open_connection("127.0.0.1", 7007, local_addr=("127.0.0.2", 7100))
        )
    assert seen == [("127.0.0.2", 7100)]
    with pytest.raises(OSError, match="error while attempting to bind on address"):
        await calls.open_connection("127.0.0.1", 7007, local_addr=("10.7.7.7", 0))


async def test_reuse_port(calls: Calls) -> None:
    options: Any = {"reuse_port": True}
    async with (
        await calls.start_server(hello, "127.0.0.1", 7007, **options),
        await calls.start_server(hello, "127.0.0.1", 7007, **options),
    ):
        assert await heard(calls.open_connection("127.0.0.1", 7007)) == b"hello"


async def test_a_port_that_is_taken(calls: Calls) -> None:
    async with await calls.start_server(hello, "127.0.0.1", 7007):
        with pytest.raises(
            OSError,
            match=r"error while attempting to bind on address \('127.0.0.1', 7007\): "
            r".*address already in use",
        ):
            await calls.start_server(hello, "127.0.0.1", 7007)


async def test_nobody_listens(calls: Calls) -> None:
    with pytest.raises(
        ConnectionRefusedError, match=r"Connect call failed \('127.0.0.1', 7007\)"
    ):
        await calls.open_connection("127.0.0.1", 7007)
    with pytest.raises(OSError, match="Connect call failed"):
        await calls.open_connection("localhost", 7007, happy_eyeballs_delay=0.01)


async def test_happy_eyeballs(calls: Calls) -> None:
    """IPv6 is refused, IPv4 serves."""
    async with await calls.start_server(hello, "127.0.0.1", 7007):
        for options in {"happy_eyeballs_delay": 0.25}, {"interleave": 1}, {}:
            assert await heard(calls.open_connection("localhost", 7007, **options)) == (
                b"hello"
            )


async def test_limit(calls: Calls) -> None:
    limits = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\n")
        except asyncio.LimitOverrunError as error:
            limits.append(error.consumed)
        await hello(reader, writer)

    async with await calls.start_server(note, "127.0.0.1", 7007, limit=100):
        reader, writer = await calls.open_connection("127.0.0.1", 7007, limit=3)
        with pytest.raises(asyncio.LimitOverrunError):
            writer.write(b"x" * 1000)
            await reader.readuntil(b"\n")
        writer.close()
        await writer.wait_closed()
    assert len(limits) == 1


async def test_ready_sockets(calls: Calls) -> None:
    make: Callable[[], socket.socket] = (
        socket.socket if calls.stack is None else calls.stack.socket
    )
    listening = make()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", 7007))
    async with await calls.start_server(hello, sock=listening, backlog=5):
        sock = make()
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", 7007))
        assert await heard(calls.open_connection(sock=sock)) == b"hello"


@pytest.mark.parametrize(
    ("args", "kwds", "error"),
    [
        ((None, None), {}, ValueError),
        (("127.0.0.1", 7), {"sock": socket.socket}, ValueError),
        (("127.0.0.1", 7), {"ssl_handshake_timeout": 5}, ValueError),
        (("127.0.0.1", 7), {"server_hostname": "x"}, ValueError),
    ],
)
async def test_arguments_that_do_not_fit(
    calls: Calls, args: Any, kwds: Any, error: Any
) -> None:
    given = {key: value() if callable(value) else value for key, value in kwds.items()}
    try:
        with pytest.raises(error) as caught:
            await calls.open_connection(*args, **given)
    finally:
        if "sock" in given:
            given["sock"].close()
    assert str(caught.value)


async def test_a_name(calls: Calls) -> None:
    with pytest.raises(socket.gaierror):
        await calls.open_connection("no-such-host.invalid", 80)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost "
        f"-addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout {key} -out {cert}"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    return key, cert


async def test_tls(calls: Calls, certificate: tuple[Path, Path]) -> None:
    key, cert = certificate
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(cert, key)
    trusting = ssl.create_default_context(cafile=str(cert))
    async with await calls.start_server(
        hello, ["127.0.0.1", "::1"], 7007, ssl=serving, ssl_handshake_timeout=10
    ):
        for host, name in (
            ("127.0.0.1", None),
            ("localhost", None),
            ("::1", "localhost"),
        ):
            connecting = calls.open_connection(
                host, 7007, ssl=trusting, server_hostname=name, ssl_handshake_timeout=10
            )
            assert await heard(connecting) == b"hello"
        with pytest.raises(ssl.SSLCertVerificationError):
            await calls.open_connection("::1", 7007, ssl=trusting)


@dataclass
class Contexts:
    """TLS for a server called localhost, and for who trusts it."""

    serving: ssl.SSLContext
    trusting: ssl.SSLContext


@pytest.fixture
def tls(certificate: tuple[Path, Path]) -> Contexts:
    key, cert = certificate
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(cert, key)
    return Contexts(serving, ssl.create_default_context(cafile=str(cert)))


async def test_start_tls_of_the_streams(calls: Calls, tls: Contexts) -> None:
    seen = []

    async def upgrade(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(b"ready\n")
        await writer.drain()
        await writer.start_tls(tls.serving, ssl_handshake_timeout=10)
        seen.append(await reader.readline())
        writer.write(b"secret answer\n")
        writer.close()
        await writer.wait_closed()

    async with (
        asyncio.timeout(10),
        await calls.start_server(upgrade, "127.0.0.1", 7007),
    ):
        reader, writer = await calls.open_connection("127.0.0.1", 7007)
        assert await reader.readline() == b"ready\n"
        await writer.start_tls(tls.trusting, server_hostname="localhost")
        assert writer.get_extra_info("sslcontext") is tls.trusting
        writer.write(b"secret\n")
        assert await reader.readline() == b"secret answer\n"
        writer.close()
        await writer.wait_closed()
    assert seen == [b"secret\n"]


async def test_start_tls_of_the_loop(calls: Calls, tls: Contexts) -> None:
    """On both sides, with protocols."""
    loop = asyncio.get_running_loop()

    class Side(asyncio.Protocol):
        def __init__(self) -> None:
            self.heard: asyncio.Queue[bytes] = asyncio.Queue()
            self.made: asyncio.Future[Any] = loop.create_future()
            self.lost = asyncio.Event()

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            if not self.made.done():
                self.made.set_result(transport)

        def data_received(self, data: bytes) -> None:
            self.heard.put_nowait(data)

        def connection_lost(self, exc: Exception | None) -> None:
            self.lost.set()

    accepted = Side()
    async with asyncio.timeout(10):
        stack: Any = calls.stack or loop
        async with await stack.create_server(lambda: accepted, "::1", 7007):
            plain, protocol = await stack.create_connection(Side, "::1", 7007)
            mine, theirs = await asyncio.gather(
                loop.start_tls(
                    plain, protocol, tls.trusting, server_hostname="localhost"
                ),
                loop.start_tls(
                    await accepted.made, accepted, tls.serving, server_side=True
                ),
            )
            assert mine is not None
            assert theirs is not None
            mine.write(b"question")
            assert await accepted.heard.get() == b"question"
            theirs.write(b"answer")
            assert await protocol.heard.get() == b"answer"
            assert mine.get_extra_info("peername")[:2] == ("::1", 7007)
            assert mine.get_extra_info("cipher")
            mine.close()
            await protocol.lost.wait()
            await accepted.lost.wait()


@pytest.mark.parametrize(("offset", "count"), [(0, None), (100, None), (100, 300_000)])
async def test_sendfile_over_tls(
    calls: Calls, tls: Contexts, tmp_path: Path, offset: int, count: int | None
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 4000)
    expected = path.read_bytes()[offset : None if count is None else offset + count]
    sender: Any = calls.stack or asyncio.get_running_loop()

    async def send(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with path.open("rb") as file:
            with pytest.raises(RuntimeError, match="fallback is disabled and native"):
                await sender.sendfile(writer.transport, file, fallback=False)
            sent = await sender.sendfile(writer.transport, file, offset, count)
            assert sent == len(expected)
            assert file.tell() == offset + sent
        writer.close()
        await writer.wait_closed()

    async with await calls.start_server(send, "127.0.0.1", 7007, ssl=tls.serving):
        heard_all = heard(calls.open_connection("127.0.0.1", 7007, ssl=tls.trusting))
        assert await heard_all == expected


async def test_all_errors() -> None:
    """asyncio has it since Python 3.12; ours has it always."""
    async with aioioth.Stack() as stack:
        with pytest.raises(ExceptionGroup) as caught:
            await stack.open_connection("localhost", 7007, all_errors=True)
        assert len(caught.value.exceptions) == 2


async def test_keep_alive() -> None:
    """asyncio has it since Python 3.13; ours has it always."""
    async with (
        aioioth.Stack() as stack,
        await stack.start_server(hello, "127.0.0.1", 7007, keep_alive=True) as server,
    ):
        sock = server.sockets[0]
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


async def test_without_a_stack_it_is_the_hosts() -> None:
    async with await aioioth.start_server(hello, "127.0.0.1", 7007):
        assert await heard(asyncio.open_connection("127.0.0.1", 7007)) == b"hello"
        assert await heard(aioioth.open_connection("127.0.0.1", 7007)) == b"hello"


async def test_protocols_and_transports() -> None:
    class Hello(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            transport.write(b"hello")
            transport.close()

    class Listen(asyncio.Protocol):
        def __init__(self) -> None:
            self.heard = b""
            self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def data_received(self, data: bytes) -> None:
            self.heard += data

        def connection_lost(self, exc: Exception | None) -> None:
            self.lost.set_result(None)

    async with (
        aioioth.Stack() as stack,
        await stack.create_server(Hello, "127.0.0.1", 7007),
    ):
        transport, protocol = await stack.create_connection(Listen, "127.0.0.1", 7007)
        async with asyncio.timeout(10):
            await protocol.lost
        assert protocol.heard == b"hello"
        assert transport.is_closing()


async def test_a_taken_port_closes_the_others() -> None:
    async with (
        aioioth.Stack() as stack,
        await stack.start_server(hello, "127.0.0.1", 7007),
    ):
        with pytest.raises(OSError, match="address already in use"):
            await stack.start_server(hello, ["::1", "127.0.0.1"], 7007)
        async with await stack.start_server(hello, "::1", 7007):
            assert await heard(stack.open_connection("::1", 7007)) == b"hello"


@pytest.mark.skipif(sys.version_info < (3, 13), reason="asyncio has it since 3.13")
@pytest.mark.asyncio(loop_factories=["asyncio"])  # uvloop does not have it
async def test_close_clients() -> None:
    async def keep_open(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        accepted.set()
        await writer.wait_closed()

    accepted = asyncio.Event()
    async with aioioth.Stack() as stack:
        server: Any = await stack.start_server(keep_open, None, 7007)
        reader, writer = await stack.open_connection("127.0.0.1", 7007)
        await accepted.wait()
        server.close()
        server.close_clients()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        await server.wait_closed()
