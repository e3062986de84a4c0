"""websockets on a stack, both ends."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from websockets.asyncio.server import ServerConnection, basic_auth
from websockets.exceptions import ConnectionClosed, InvalidStatus

import aioioth
from aioioth.adapters.websockets import connect, serve
from aioioth.testing import cancel_everywhere

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.adapters.conftest import Lan, Tls


async def shout(connection: ServerConnection) -> None:
    async for message in connection:
        assert isinstance(message, str)
        await connection.send(f"{message.upper()} {connection.remote_address[0]}")


@pytest.mark.parametrize("uri", ["ws://10.0.0.1/", "ws://[fd00::1]/", "ws://web/"])
async def test_shout(lan: Lan, uri: str) -> None:
    async with serve(lan.server, shout, None, 80):
        async with connect(lan.client, uri) as connection:
            await connection.send("hello")
            assert str(await connection.recv()).startswith("HELLO ")
    assert lan.server.sockets() == []
    assert lan.client.sockets() == []


async def test_tls(lan: Lan, tls: Tls) -> None:
    async with (
        serve(lan.server, shout, "10.0.0.1", 443, ssl=tls.server),
        connect(lan.client, "wss://web/", ssl=tls.client) as connection,
    ):
        await connection.send("secret")
        assert await connection.recv() == "SECRET 10.0.0.2"


async def test_awaited(lan: Lan) -> None:
    async with serve(lan.server, shout, "10.0.0.1", 80):
        connection = await connect(lan.client, "ws://10.0.0.1/")
        await connection.close()


async def test_iterated_over(lan: Lan) -> None:
    """It connects again when the server has hung up."""
    connections = 0

    async def hang_up(connection: ServerConnection) -> None:
        nonlocal connections
        connections += 1

    async with serve(lan.server, hang_up, "10.0.0.1", 80):
        async for connection in connect(lan.client, "ws://10.0.0.1/"):
            with pytest.raises(ConnectionClosed):
                await connection.recv()
            if connections == 3:
                break
            continue


async def test_another_address_than_the_uris(lan: Lan) -> None:
    await lan.client.add_address("10.0.0.9/24", dev="vde0")
    async with (
        serve(lan.server, shout, "10.0.0.1", 8000),
        connect(
            lan.client,
            "ws://elsewhere/",
            host="10.0.0.1",
            port=8000,
            local_addr=("10.0.0.9", 0),
        ) as connection,
    ):
        await connection.send("hello")
        assert await connection.recv() == "HELLO 10.0.0.9"
        assert connection.request is not None
        assert connection.request.headers["Host"] == "elsewhere"


async def test_the_environments_proxy_is_not_used(
    lan: Lan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://10.0.0.1:9")
    async with (
        serve(lan.server, shout, "10.0.0.1", 80),
        connect(lan.client, "ws://10.0.0.1/") as connection,
    ):
        await (await connection.ping())


async def test_refused(lan: Lan) -> None:
    with pytest.raises(ConnectionRefusedError):
        await connect(lan.client, "ws://10.0.0.1/")


async def test_nobody_has_that_name(lan: Lan) -> None:
    with pytest.raises(socket.gaierror):
        await connect(lan.client, "ws://nobody/")


async def test_nobody_answers(lan: Lan) -> None:
    silent = lan.server.socket()
    with silent:
        silent.bind(("10.0.0.1", 80))
        silent.listen()
        for host in "10.0.0.1", "10.0.0.77":
            with pytest.raises(TimeoutError):
                await connect(lan.client, f"ws://{host}/", open_timeout=0.05)


async def test_the_handshake_fails(lan: Lan) -> None:
    auth = basic_auth(realm="test", credentials=("me", "secret"))
    async with serve(lan.server, shout, "10.0.0.1", 80, process_request=auth):
        with pytest.raises(InvalidStatus):
            await connect(lan.client, "ws://10.0.0.1/")
        async with connect(lan.client, "ws://me:secret@10.0.0.1/"):
            pass
    assert lan.client.sockets() == []


async def test_the_stack_is_closed(closed: aioioth.Stack) -> None:
    with pytest.raises(aioioth.errors.ClosedError):
        await connect(closed, "ws://10.0.0.1/")
    with pytest.raises(aioioth.errors.ClosedError):
        async with serve(closed, shout, "10.0.0.1", 80):
            pass


async def test_the_address_is_in_use(lan: Lan) -> None:
    async with serve(lan.server, shout, "10.0.0.1", 80):
        for host in "10.0.0.1", None:
            with pytest.raises(OSError, match="in use"):
                async with serve(lan.server, shout, host, 80):
                    pass


async def test_a_name_with_several_addresses(lan: Lan) -> None:
    with pytest.raises(OSError, match="web has 2 addresses"):
        async with serve(lan.server, shout, "web", 80):
            pass


@asynccontextmanager
async def server(stack: aioioth.Stack) -> AsyncIterator[Any]:
    async with serve(stack, shout, None, 80) as opened:
        yield opened


@pytest.mark.parametrize("times", [1, 2])
async def test_cancelled_while_it_connects(lan: Lan, times: int) -> None:
    async def ask() -> None:
        async with connect(lan.client, "ws://web/") as connection:
            await connection.send("hello")

    async with server(lan.server):
        assert await cancel_everywhere(ask, times=times) > 2


@pytest.mark.parametrize("times", [1, 2])
async def test_cancelled_while_it_starts(lan: Lan, times: int) -> None:
    async def start() -> None:
        async with server(lan.server):
            pass

    await start()  # libuv opens /dev/null with a loop's first stream
    assert await cancel_everywhere(start, times=times) > 0
