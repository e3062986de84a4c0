"""uvicorn on a stack; asked by httpx on another."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import uvicorn

import aioioth
from aioioth.adapters.uvicorn import open_server, serve
from aioioth.testing import cancel_everywhere
from tests.adapters.asgi import App, get, refuses

if TYPE_CHECKING:
    from pathlib import Path

    from tests.adapters.conftest import Lan, Tls


def config(app: Any, host: str | None = "10.0.0.1", **kwds: Any) -> uvicorn.Config:
    kwds = {"port": 80, "log_config": None, **kwds}
    return uvicorn.Config(app, host, **kwds)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url", ["http://10.0.0.1/", "http://[fd00::1]/", "http://web/"]
)
async def test_get(lan: Lan, url: str) -> None:
    app = App()
    async with open_server(lan.server, config(app, "")) as server:
        assert server.started
        assert (await get(lan.client, url)).startswith("hello ")
    assert app.events == ["lifespan.startup", "lifespan.shutdown"]
    assert lan.server.sockets() == []


async def test_tls(lan: Lan, tls: Tls, tmp_path: Path) -> None:
    pem = tmp_path / "server.pem"
    tls.certificate.private_key_and_cert_chain_pem.write_to_path(str(pem))
    secure = config(App(), "web", port=443, ssl_certfile=str(pem))
    async with open_server(lan.server, secure):
        assert (await get(lan.client, "https://web/", verify=tls.client))[:5] == "hello"


async def test_signals_are_left_alone(lan: Lan) -> None:
    before = signal.getsignal(signal.SIGINT)
    async with open_server(lan.server, config(App())):
        assert signal.getsignal(signal.SIGINT) is before


async def test_a_request_is_finished_first(lan: Lan) -> None:
    app = App()
    app.may_answer.clear()
    async with open_server(lan.server, config(app)):
        asking = asyncio.create_task(get(lan.client, "http://10.0.0.1/"))
        await app.asked.wait()
        asyncio.get_running_loop().call_soon(app.may_answer.set)
    assert await asking == "hello 10.0.0.2"


async def test_serve_ends_when_told_to(lan: Lan) -> None:
    limited = config(App(), limit_max_requests=1)
    serving = asyncio.create_task(serve(lan.server, limited))
    await lan.client.wait_listening("10.0.0.1", 80, timeout=10)
    assert await get(lan.client, "http://10.0.0.1/") == "hello 10.0.0.2"
    await serving
    assert lan.server.sockets() == []


@pytest.mark.parametrize("times", [1, 2])
async def test_cancelled_in_a_request(lan: Lan, times: int) -> None:
    """Once, and it is finished; once more, and it is dropped."""
    app = App()
    app.may_answer.clear()
    serving = asyncio.create_task(serve(lan.server, config(app)))
    await lan.client.wait_listening("10.0.0.1", 80, timeout=10)
    asking = asyncio.create_task(get(lan.client, "http://10.0.0.1/"))
    await app.asked.wait()
    for _ in range(times):
        serving.cancel()
        await asyncio.sleep(0)
    if times == 1:
        app.may_answer.set()
        assert await asking == "hello 10.0.0.2"
    else:
        with pytest.raises(httpx.TransportError):
            await asking
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert lan.server.sockets() == []


async def test_the_address_is_in_use(lan: Lan) -> None:
    async with open_server(lan.server, config(App())):
        with pytest.raises(OSError, match="error while attempting to bind"):
            await serve(lan.server, config(App()))


async def test_the_application_refuses(lan: Lan) -> None:
    with pytest.raises(RuntimeError, match="log says why"):
        await serve(lan.server, config(refuses))
    assert lan.server.sockets() == []


async def test_the_stack_is_closed(closed: aioioth.Stack) -> None:
    with pytest.raises(aioioth.errors.ClosedError):
        await serve(closed, config(App()))


@pytest.mark.parametrize("elsewhere", [{"uds": "/nowhere"}, {"fd": 5}], ids=str)
async def test_elsewhere(lan: Lan, elsewhere: Any) -> None:
    with pytest.raises(aioioth.errors.ConfigurationError):
        await serve(lan.server, config(App(), **elsewhere))


@pytest.mark.parametrize("times", [1, 2])
async def test_cancelled(lan: Lan, times: int) -> None:
    async def whole_life() -> None:
        async with open_server(lan.server, config(App(), "")):
            await asyncio.sleep(0)

    await whole_life()  # libuv opens /dev/null with a loop's first stream
    assert await cancel_everywhere(whole_life, times=times) > 2
    assert lan.server.sockets() == []
