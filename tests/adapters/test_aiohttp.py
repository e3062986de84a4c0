"""aiohttp's client and server, each on a stack of its own."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web

import aioioth
from aioioth.adapters.aiohttp import Resolver, Site, connector
from aioioth.testing import cancel_everywhere

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.adapters.conftest import Lan, Tls


@asynccontextmanager
async def serving(
    stack: aioioth.Stack, *where: Any, **kwds: Any
) -> AsyncIterator[Site]:
    async def hello(request: web.Request) -> web.Response:
        return web.Response(text=f"hello {request.remote}")

    async def shout(request: web.Request) -> web.WebSocketResponse:
        response = web.WebSocketResponse()
        await response.prepare(request)
        async for message in response:
            await response.send_str(message.data.upper())
        return response

    app = web.Application()
    app.add_routes([web.get("/", hello), web.get("/socket", shout)])
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = Site(stack, runner, *where, **kwds)
        await site.start()
        yield site
    finally:
        await runner.cleanup()


@asynccontextmanager
async def session(stack: aioioth.Stack, **kwds: Any) -> AsyncIterator[Any]:
    async with aiohttp.ClientSession(connector=connector(stack, **kwds)) as opened:
        yield opened


@pytest.mark.parametrize(
    ("host", "seen"),
    [
        ("10.0.0.1", {"hello 10.0.0.2"}),
        ("[fd00::1]", {"hello fd00::2"}),
        ("web", {"hello 10.0.0.2", "hello fd00::2"}),
    ],
)
async def test_get(lan: Lan, host: str, seen: set[str]) -> None:
    async with serving(lan.server, None, 80), session(lan.client) as client:
        for _ in range(2):
            async with client.get(f"http://{host}/") as response:
                assert await response.text() in seen


async def test_tls(lan: Lan, tls: Tls) -> None:
    async with (
        serving(lan.server, "10.0.0.1", 443, ssl_context=tls.server) as site,
        session(lan.client, ssl=tls.client) as client,
        client.get("https://web/") as response,
    ):
        assert site.name == "https://10.0.0.1:443"
        assert await response.text() == "hello 10.0.0.2"


async def test_the_authority_is_not_known(lan: Lan, tls: Tls) -> None:
    async with (
        serving(lan.server, "10.0.0.1", 443, ssl_context=tls.server),
        session(lan.client) as client,
    ):
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await client.get("https://web/")


async def test_websocket(lan: Lan) -> None:
    async with (
        serving(lan.server, "web", 80),
        session(lan.client) as client,
        client.ws_connect("http://web/socket") as connection,
    ):
        await connection.send_str("hello")
        assert await connection.receive_str() == "HELLO"


async def test_one_address_of_the_client_is_chosen(lan: Lan) -> None:
    await lan.client.add_address("10.0.0.9/24", dev="vde0")
    async with (
        serving(lan.server, None, 80),
        session(lan.client, local_addr=("10.0.0.9", 0)) as client,
        client.get("http://10.0.0.1/") as response,
    ):
        assert await response.text() == "hello 10.0.0.9"


async def test_refused(lan: Lan) -> None:
    async with session(lan.client) as client:
        with pytest.raises(aiohttp.ClientConnectorError) as refused:
            await client.get("http://10.0.0.1/")
        assert isinstance(refused.value.os_error, ConnectionRefusedError)


async def test_nobody_has_that_name(lan: Lan) -> None:
    async with session(lan.client) as client:
        with pytest.raises(aiohttp.ClientConnectorDNSError):
            await client.get("http://nobody/")


@pytest.mark.parametrize("host", ["10.0.0.1", "web"])
async def test_the_clients_stack_is_closed(closed: aioioth.Stack, host: str) -> None:
    async with session(closed) as client:
        with pytest.raises(aioioth.errors.ClosedError):
            await client.get(f"http://{host}/")


async def test_the_servers_stack_is_closed(closed: aioioth.Stack) -> None:
    with pytest.raises(aioioth.errors.ClosedError):
        async with serving(closed, None, 80):
            pass


async def test_the_address_is_in_use(lan: Lan) -> None:
    async with serving(lan.server, "10.0.0.1", 80):
        with pytest.raises(OSError, match="error while attempting to bind"):
            async with serving(lan.server, ["fd00::1", "10.0.0.1"], 80):
                pass


async def test_names_of_sites(lan: Lan) -> None:
    async with serving(lan.server) as site:
        assert site.name == "http://0.0.0.0:8080"
    async with serving(lan.server, "fd00::1", 80) as site:
        assert site.name == "http://[fd00::1]:80"


async def test_the_runner_names_the_sockets(lan: Lan) -> None:
    runner = web.AppRunner(web.Application())
    await runner.setup()
    await Site(lan.server, runner, ["10.0.0.1", "fd00::1"], 80).start()
    assert runner.addresses == [("10.0.0.1", 80), ("fd00::1", 80, 0, 0)]
    await runner.cleanup()
    assert lan.server.sockets() == []


async def test_the_scope_of_a_link_local_address() -> None:
    async with (
        aioioth.Stack("memory://lan", ip="fe80::1/64") as server,
        aioioth.Stack("memory://lan", ip="fe80::2/64") as client,
    ):
        client.hosts["near"] = "fe80::1%vde0"
        index = client.interfaces["vde0"].index
        [found] = await Resolver(client).resolve("near", 80, socket.AF_INET6)
        assert found["host"] == f"fe80::1%{index}"
        async with (
            serving(server, None, 80),
            session(client) as http,
            http.get("http://near/") as response,
        ):
            assert (await response.text()).startswith("hello fe80::2")


@pytest.mark.parametrize("times", [1, 2])
async def test_cancelled_while_it_asks(lan: Lan, times: int) -> None:
    async def ask() -> None:
        async with (
            session(lan.client) as client,
            client.get("http://web/") as response,
        ):
            await response.text()

    async with serving(lan.server, None, 80):
        assert await cancel_everywhere(ask, times=times) > 2


@pytest.mark.parametrize("times", [1, 2])
async def test_cancelled_while_it_starts(lan: Lan, times: int) -> None:
    async def start() -> None:
        async with serving(lan.server, None, 80):
            pass

    await start()  # libuv opens /dev/null with a loop's first stream
    assert await cancel_everywhere(start, times=times) > 0
