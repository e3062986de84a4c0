"""Every public coroutine cancelled at each of its awaits, once and twice."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

import aioioth
from aioioth.testing import cancel_everywhere, no_leaks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.parametrize("times", [1, 2])


@asynccontextmanager
async def pair(device: str | None = None) -> AsyncIterator[tuple[Any, Any]]:
    async with (
        aioioth.Stack("memory://lan", ip=["10.0.0.1/24"], device=device) as one,
        aioioth.Stack("memory://lan", ip=["10.0.0.2/24"], device=device) as two,
    ):
        yield one, two


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ...]:
    """Contexts of a server called localhost, and of who trusts it."""
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost "
        f"-addext subjectAltName=DNS:localhost -keyout {key} -out {cert}"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(cert, key)
    return serving, ssl.create_default_context(cafile=str(cert))


def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def hang_up(streams: Any) -> None:
    if streams is not None:
        streams[1].close()
        await streams[1].wait_closed()


async def stop(server: Any) -> None:
    server.close()
    await server.wait_closed()


async def test_open_and_close(device: str, times: int) -> None:
    async with aioioth.Stack():  # the keeper and the manager are there to stay

        async def whole_life() -> None:
            async with aioioth.Stack(
                "memory://lan",
                "eth1:null://",
                ip=["10.0.0.1/24", "fd00::1/64"],
                gw="10.0.0.254",
                device=device,
            ):
                await asyncio.sleep(0)

        assert await cancel_everywhere(whole_life, times=times) > 7
        assert len(aioioth.stacks()) == 1


async def test_the_very_first_stack(times: int) -> None:
    """While the keeper starts. What stays then is the loop's, and goes with it."""
    for at in range(1, 8):

        async def first(at: int = at) -> None:
            opening = asyncio.create_task(aioioth.Stack("null://").open())
            for _ in range(at):
                await asyncio.sleep(0)
            opening.cancel()
            if times == 2:
                await asyncio.sleep(0)
                opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening

        with no_leaks():
            await asyncio.to_thread(asyncio.run, first())


async def test_aclose(times: int) -> None:
    async with aioioth.Stack():

        async def close_it() -> None:
            stack = await aioioth.Stack("memory://lan").open()
            try:
                await stack.aclose()
            finally:
                assert stack not in aioioth.stacks()

        assert await cancel_everywhere(close_it, times=times) > 1


@pytest.mark.parametrize(
    "options",
    [{}, {"local_addr": ("10.0.0.2", 0)}, {"happy_eyeballs_delay": 0.1}],
    ids=str,
)
async def test_open_connection(
    device: str, times: int, options: dict[str, Any]
) -> None:
    async with pair(device) as (one, two), await one.start_server(serve, None, 7):
        connect = partial(two.open_connection, "10.0.0.1", 7, **options)
        assert await cancel_everywhere(connect, undo=hang_up, times=times) > 0


async def test_happy_eyeballs(times: int) -> None:
    async with aioioth.Stack() as stack:
        # ::1 is refused, 127.0.0.1 accepts.
        async with await stack.start_server(serve, "127.0.0.1", 7):
            connect = partial(
                stack.open_connection, "localhost", 7, happy_eyeballs_delay=0.01
            )
            assert await cancel_everywhere(connect, undo=hang_up, times=times) > 0


@pytest.mark.parametrize("hosts", ["127.0.0.1", ["127.0.0.1", "::1"]])
async def test_start_server(times: int, hosts: Any) -> None:
    async with aioioth.Stack() as stack:
        start = partial(stack.start_server, serve, hosts, 7)
        # libuv opens /dev/null with a loop's first server, and keeps it.
        await stop(await start())
        await cancel_everywhere(start, undo=stop, times=times)  # uvloop never waits


async def test_serve_forever(times: int) -> None:
    async with aioioth.Stack() as stack:
        start = partial(stack.start_server, serve, ["127.0.0.1", "::1"], 7)
        await stop(await start())
        with no_leaks():
            server = await start()
            serving = asyncio.create_task(server.serve_forever())
            for _ in range(times):
                await asyncio.sleep(0.01)
                serving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await serving
            assert not server.is_serving()


async def leave(endpoint: Any) -> None:
    if endpoint is not None:
        endpoint[0].abort()
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"local_addr": ("127.0.0.1", 0)},
        {"happy_eyeballs_delay": 0.01, "all_errors": True},
    ],
    ids=str,
)
async def test_create_connection(times: int, options: dict[str, Any]) -> None:
    async with aioioth.Stack() as stack:
        async with await stack.create_server(asyncio.Protocol, ["127.0.0.1", "::1"], 7):
            connect = partial(
                stack.create_connection, asyncio.Protocol, "localhost", 7, **options
            )
            assert await cancel_everywhere(connect, undo=leave, times=times) > 0


async def test_create_connection_of_a_socket(times: int) -> None:
    """The socket stays the caller's, until there is a transport."""
    async with aioioth.Stack() as stack:
        async with await stack.create_server(asyncio.Protocol, "127.0.0.1", 7):

            async def connect() -> Any:
                with stack.socket() as sock:
                    await stack.sock_connect(sock, ("localhost", 7))
                    transport, _ = await stack.create_connection(
                        asyncio.Protocol, sock=sock
                    )
                    transport.abort()
                    await asyncio.sleep(0)

            assert await cancel_everywhere(connect, times=times) > 0


async def test_create_server(times: int) -> None:
    async with aioioth.Stack() as stack:
        for hosts in "localhost", ["127.0.0.1", "::1"], None:
            start = partial(
                stack.create_server, asyncio.Protocol, hosts, 7, reuse_port=True
            )
            await stop(await start())
            await cancel_everywhere(start, undo=stop, times=times)


@pytest.mark.parametrize(
    "options",
    [
        {"local_addr": ("127.0.0.1", 7)},
        {"remote_addr": ("localhost", 7)},
        {"local_addr": ("localhost", 0), "remote_addr": ("localhost", 7)},
        {"remote_addr": ("127.0.0.1", 7), "allow_broadcast": True},
        {"local_addr": ("::1", 7), "reuse_port": True},
        {"family": socket.AF_INET6},
    ],
    ids=str,
)
async def test_create_datagram_endpoint(times: int, options: dict[str, Any]) -> None:
    async with aioioth.Stack() as stack:
        create = partial(
            stack.create_datagram_endpoint, asyncio.DatagramProtocol, **options
        )
        assert await cancel_everywhere(create, undo=leave, times=times) > 0


async def test_sock_connect(times: int) -> None:
    async with (
        pair() as (one, stack),
        await one.start_server(serve, "10.0.0.1", 7),
    ):

        async def connect(host: str) -> None:
            with stack.socket() as sock:
                await stack.sock_connect(sock, (host, 7))

        assert await cancel_everywhere(partial(connect, "10.0.0.1"), times=times) > 0
        # Nobody answers there: cancelled in the midst of connecting.
        with no_leaks():
            connecting = asyncio.create_task(connect("10.0.0.9"))
            await asyncio.sleep(0.01)
            for _ in range(times):
                connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting


async def test_names(times: int) -> None:
    async with aioioth.Stack() as stack:
        forth = partial(stack.getaddrinfo, "localhost", 7)
        back = partial(stack.getnameinfo, ("127.0.0.1", 7))
        for look in forth, back:
            await look()
            await cancel_everywhere(look, times=times)


async def test_start_tls(times: int, tls: tuple[ssl.SSLContext, ...]) -> None:
    serving, trusting = tls

    async def upgrade(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            await writer.start_tls(serving)
            await reader.read()
        except OSError:
            pass  # the client was cancelled
        writer.transport.abort()

    async def connect(stack: aioioth.Stack) -> None:
        _, writer = await stack.open_connection("127.0.0.1", 7)
        try:
            await writer.start_tls(trusting, server_hostname="localhost")
        finally:
            writer.transport.abort()
            await asyncio.sleep(0)

    async with (
        aioioth.Stack() as stack,
        await stack.start_server(upgrade, "127.0.0.1", 7),
    ):
        await connect(stack)
        assert await cancel_everywhere(partial(connect, stack), times=times) > 0


async def test_tls(times: int, tls: tuple[ssl.SSLContext, ...]) -> None:
    serving, trusting = tls
    async with (
        aioioth.Stack() as stack,
        await stack.start_server(serve, "127.0.0.1", 7, ssl=serving),
    ):

        async def connect() -> None:
            _, writer = await stack.open_connection(
                "127.0.0.1", 7, ssl=trusting, server_hostname="localhost"
            )
            writer.transport.abort()
            await asyncio.sleep(0)

        await connect()
        assert await cancel_everywhere(connect, times=times) > 0


async def test_sendfile(times: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(2_000_000))  # more than the sockets hold

    async def swallow(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while await reader.read(65536):
                pass
        except ConnectionResetError:
            pass
        writer.transport.abort()

    async with (
        aioioth.Stack() as stack,
        await stack.start_server(swallow, "127.0.0.1", 7),
    ):

        async def send() -> None:
            _, writer = await stack.open_connection("127.0.0.1", 7)
            try:
                with path.open("rb") as file:
                    await stack.sendfile(writer.transport, file)
            finally:
                writer.transport.abort()
                await asyncio.sleep(0)

        await send()
        assert await cancel_everywhere(send, times=times) > 0


async def test_addresses_and_routes(times: int) -> None:
    async with aioioth.Stack("null://") as stack:
        index = stack.interfaces["vde0"].index

        async def clean() -> None:
            # A cancelled request may have taken effect, or be at work yet: what is
            # asked after it is answered after it. Start from nothing again.
            await stack.sysctl("net.ipv4.ip_forward", 0)
            await stack.netlink.flush_addr(index=index)

        async def configure() -> None:
            try:
                await stack.add_address("10.0.0.1/24", dev="vde0")
                await stack.add_address("fd00::1/64", dev="vde0")
                await stack.add_route("10.1.0.0/16", via="10.0.0.2")
                await stack.sysctl("net.ipv4.ip_forward", 1)
                await stack.del_route("10.1.0.0/16", via="10.0.0.2")
                await stack.del_address("fd00::1/64", dev="vde0")
                await stack.del_address("10.0.0.1/24", dev="vde0")
            finally:
                await asyncio.shield(asyncio.create_task(clean()))

        await clean()  # by netlink, which is opened when it is asked for
        assert await cancel_everywhere(configure, times=times) > 5
        # No late answer has confused a later request, and none is kept.
        assert list(stack.netlink.msg_queue.queues) == [0]


async def test_events(times: int) -> None:
    async with aioioth.Stack("null://") as stack:
        events = stack.events()
        with no_leaks():
            waiting = asyncio.create_task(events.__anext__())
            for _ in range(times):
                await asyncio.sleep(0)
                waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        events.close()
        with pytest.raises(StopAsyncIteration):
            await anext(events)
