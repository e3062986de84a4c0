"""hypercorn on a stack; asked by httpx on another."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypercorn.config import Config
from hypercorn.utils import LifespanFailureError

import aioioth
from aioioth.adapters.hypercorn import open_server, serve
from aioioth.testing import cancel_everywhere
from tests.adapters.asgi import App, get, refuses

if TYPE_CHECKING:
    from pathlib import Path

    from tests.adapters.conftest import Lan, Tls


def config(*binds: str, **kwds: Any) -> Config:
    made = Config.from_mapping(kwds)
    made.bind = list(binds)
    made.errorlog = None
    return made


@pytest.mark.parametrize(
    "url", ["http://10.0.0.1/", "http://[fd00::1]/", "http://web/"]
)
async def test_get(lan: Lan, url: str) -> None:
    app, both = App(), config("10.0.0.1:80", "[fd00::1]:80")
    async with open_server(lan.server, app, both) as sockets:
        assert [sock.getsockname()[0] for sock in sockets] == ["10.0.0.1", "fd00::1"]
        assert (await get(lan.client, url)).startswith("hello ")
    assert app.events == ["lifespan.startup", "lifespan.shutdown"]
    assert both.bind == ["10.0.0.1:80", "[fd00::1]:80"]
    assert lan.server.sockets() == []


async def test_by_name_with_the_default_port(lan: Lan) -> None:
    async with open_server(lan.server, App(), config("web")) as sockets:
        assert len(sockets) == 2
        assert await get(lan.client, "http://10.0.0.1:8000/") == "hello 10.0.0.2"


async def test_tls_and_plain(lan: Lan, tls: Tls, tmp_path: Path) -> None:
    pem = tmp_path / "server.pem"
    tls.certificate.private_key_and_cert_chain_pem.write_to_path(str(pem))
    secure = config("10.0.0.1:443", certfile=str(pem), keyfile=str(pem))
    secure.insecure_bind = ["10.0.0.1:80"]
    async with open_server(lan.server, App(), secure):
        for url in "https://10.0.0.1/", "http://10.0.0.1/":
            assert await get(lan.client, url, verify=tls.client) == "hello 10.0.0.2"


async def test_a_path(lan: Lan, tmp_path: Path) -> None:
    path = tmp_path / "http"
    async with open_server(lan.server, App(), config(f"unix:{path}")):
        assert path.is_socket()


async def test_signals_are_left_alone(lan: Lan) -> None:
    before = signal.getsignal(signal.SIGINT)
    async with open_server(lan.server, App(), config("10.0.0.1:80")):
        assert signal.getsignal(signal.SIGINT) is before


async def test_serve_ends_when_told_to(lan: Lan) -> None:
    told = asyncio.Event()
    serving = asyncio.create_task(
        serve(lan.server, App(), config("10.0.0.1:80"), shutdown_trigger=told.wait)
    )
    await lan.client.wait_listening("10.0.0.1", 80, timeout=10)
    assert await get(lan.client, "http://10.0.0.1/") == "hello 10.0.0.2"
    told.set()
    await serving
    assert lan.server.sockets() == []


async def test_an_error_of_the_trigger(lan: Lan) -> None:
    async def fails() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        await serve(lan.server, App(), config("10.0.0.1:80"), shutdown_trigger=fails)
    assert lan.server.sockets() == []


@pytest.mark.parametrize("patient", [True, False])
async def test_cancelled_in_a_request(lan: Lan, patient: bool) -> None:
    app = App()
    app.may_answer.clear()
    settings = config("10.0.0.1:80", graceful_timeout=20 if patient else 0)
    serving = asyncio.create_task(serve(lan.server, app, settings))
    await lan.client.wait_listening("10.0.0.1", 80, timeout=10)
    asking = asyncio.create_task(get(lan.client, "http://10.0.0.1/"))
    await app.asked.wait()
    serving.cancel()
    if patient:
        await asyncio.sleep(0)
        app.may_answer.set()
        assert await asking == "hello 10.0.0.2"
    else:
        with suppress(httpx.TransportError):
            assert "hello" not in await asking
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert lan.server.sockets() == []


async def test_the_address_is_in_use(lan: Lan) -> None:
    async with open_server(lan.server, App(), config("10.0.0.1:80")):
        with pytest.raises(OSError, match="error while attempting to bind"):
            await serve(lan.server, App(), config("[fd00::1]:80", "10.0.0.1:80"))


async def test_the_application_refuses(lan: Lan) -> None:
    with pytest.raises(LifespanFailureError):
        await serve(lan.server, refuses, config("10.0.0.1:80"))
    assert lan.server.sockets() == []


async def test_the_stack_is_closed(closed: aioioth.Stack) -> None:
    with pytest.raises(aioioth.errors.ClosedError):
        await serve(closed, App(), config("10.0.0.1:80"))


@pytest.mark.parametrize("times", [1, 2])
async def test_cancelled(lan: Lan, times: int) -> None:
    async def whole_life() -> None:
        async with open_server(
            lan.server, App(), config("10.0.0.1:80", "[fd00::1]:80")
        ):
            await asyncio.sleep(0)

    await whole_life()  # libuv opens /dev/null with a loop's first stream
    assert await cancel_everywhere(whole_life, times=times) > 2
    assert lan.server.sockets() == []
