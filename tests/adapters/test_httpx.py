"""httpx and httpcore on a stack, also with trio."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpcore
import httpx
import pytest
import trio

import aioioth
from aioioth.adapters.httpx import NetworkBackend, transport
from aioioth.testing import cancel_everywhere

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.adapters.conftest import Answering, Lan, Tls


@asynccontextmanager
async def client(stack: aioioth.Stack, **kwds: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=transport(stack, **kwds)) as opened:
        yield opened


@pytest.mark.parametrize(
    ("host", "seen"),
    [
        ("10.0.0.1", {"hello 10.0.0.2"}),
        ("[fd00::1]", {"hello fd00::2"}),
        ("web", {"hello 10.0.0.2", "hello fd00::2"}),
    ],
)
async def test_get(lan: Lan, answering: Answering, host: str, seen: set[str]) -> None:
    async with answering(lan.server), client(lan.client) as http:
        for _ in range(2):
            assert (await http.get(f"http://{host}/")).text in seen


async def test_tls(lan: Lan, tls: Tls, answering: Answering) -> None:
    async with (
        answering(lan.server, None, 443, ssl=tls.server),
        client(lan.client, verify=tls.client) as http,
        http.stream("GET", "https://web/") as response,
    ):
        assert (await response.aread()).startswith(b"hello")
        stream = response.extensions["network_stream"]
        assert stream.get_extra_info("ssl_object").version() == "TLSv1.3"
        assert stream.get_extra_info("server_addr")[1] == 443


async def test_the_authority_is_not_known(
    lan: Lan, tls: Tls, answering: Answering
) -> None:
    async with (
        answering(lan.server, None, 443, ssl=tls.server),
        client(lan.client) as http,
    ):
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await http.get("https://web/")


async def test_httpcore(lan: Lan, answering: Answering) -> None:
    async with (
        answering(lan.server),
        httpcore.AsyncConnectionPool(
            network_backend=NetworkBackend(lan.client)
        ) as pool,
    ):
        response = await pool.request("GET", "http://10.0.0.1/")
        assert response.content == b"hello 10.0.0.2"


async def test_a_local_address_and_socket_options(
    lan: Lan, answering: Answering
) -> None:
    await lan.client.add_address("10.0.0.9/24", dev="vde0")
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    async with (
        answering(lan.server),
        client(lan.client, local_address="10.0.0.9", socket_options=options) as http,
        http.stream("GET", "http://10.0.0.1/") as response,
    ):
        assert await response.aread() == b"hello 10.0.0.9"
        stream = response.extensions["network_stream"]
        sock = stream.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert stream.get_extra_info("client_addr")[0] == "10.0.0.9"


async def test_an_option_that_is_none(lan: Lan, answering: Answering) -> None:
    async with answering(lan.server):
        async with client(lan.client, socket_options=[(255, 255, 1)]) as http:
            with pytest.raises(httpx.ConnectError):
                await http.get("http://10.0.0.1/")


async def test_the_server_hung_up_meanwhile(lan: Lan, answering: Answering) -> None:
    async with answering(lan.server), client(lan.client) as http:
        for _ in range(3):
            assert (await http.get("http://10.0.0.1/bye")).text == "hello 10.0.0.2"


async def test_refused(lan: Lan) -> None:
    async with client(lan.client) as http:
        with pytest.raises(httpx.ConnectError):
            await http.get("http://10.0.0.1/")
    with pytest.raises(httpcore.ConnectError) as refused:
        await NetworkBackend(lan.client).connect_tcp("10.0.0.1", 80)
    assert isinstance(refused.value.__cause__, OSError)


async def test_nobody_has_that_name(lan: Lan) -> None:
    async with client(lan.client) as http:
        with pytest.raises(httpx.ConnectError):
            await http.get("http://nobody/")


async def test_nobody_answers(lan: Lan, answering: Answering) -> None:
    async with answering(lan.server), client(lan.client) as http:
        with pytest.raises(httpx.ReadTimeout):
            await http.get("http://10.0.0.1/slow", timeout=0.05)


async def test_nobody_is_there(lan: Lan) -> None:
    async with client(lan.client) as http:
        with pytest.raises(httpx.ConnectTimeout):
            await http.get("http://10.0.0.77/", timeout=0.05)


async def test_the_stack_is_closed(closed: aioioth.Stack) -> None:
    async with client(closed) as http:
        with pytest.raises(aioioth.errors.ClosedError):
            await http.get("http://10.0.0.1/")


async def test_a_unix_socket(lan: Lan, tmp_path: Path) -> None:
    async def answer(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    path = str(tmp_path / "http")
    server = await asyncio.start_unix_server(answer, path)
    async with client(lan.client, uds=path) as http:
        assert (await http.get("http://web/")).status_code == 204
    server.close()
    await server.wait_closed()


async def test_through_a_proxy(lan: Lan, answering: Answering) -> None:
    async with (
        answering(lan.server, None, 3128),
        client(lan.client, proxy="http://10.0.0.1:3128") as http,
    ):
        assert (await http.get("http://elsewhere/")).text == "hello 10.0.0.2"


async def test_trio(lan: Lan, tls: Tls, answering: Answering) -> None:
    async def ask() -> list[str]:
        async with client(lan.client, verify=tls.client) as http:
            return [
                (await http.get(url)).text
                for url in ["http://web/", "https://web/", "https://10.0.0.1/"]
            ]

    async with (
        answering(lan.server),
        answering(lan.server, None, 443, ssl=tls.server),
    ):
        answers = await asyncio.to_thread(trio.run, ask)
    assert len(answers) == 3
    assert answers[2] == "hello 10.0.0.2"


async def test_another_httpx(lan: Lan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httpcore, "AsyncConnectionPool", lambda **_: object())
    with pytest.raises(RuntimeError, match="AsyncConnectionPool"):
        transport(lan.client)


@pytest.mark.parametrize("times", [1, 2])
async def test_cancelled(lan: Lan, tls: Tls, answering: Answering, times: int) -> None:
    async def ask() -> None:
        async with client(lan.client, verify=tls.client) as http:
            await http.get("https://10.0.0.1/")

    async with answering(lan.server, None, 443, ssl=tls.server):
        assert await cancel_everywhere(ask, times=times) > 2
