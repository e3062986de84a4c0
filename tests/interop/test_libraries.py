"""Needs PostgreSQL and redis-server for four tests: unmodified libraries on a stack.

Each runs under a guard: one socket outside of its stack, and it fails.
"""

from __future__ import annotations

import asyncio
import ssl
import tempfile
import urllib.request
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import aiohttp.web
import asyncpg  # type: ignore[import-untyped]
import asyncssh
import httpx
import pytest
import trustme
import uvicorn
import uvloop
import websockets.asyncio.client
import websockets.asyncio.server

import aioioth
from aioioth._loops import make_aware
from tests.interop import servers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture(autouse=True)
async def _aware_loop() -> None:
    make_aware(asyncio.get_running_loop())


@asynccontextmanager
async def lan() -> AsyncIterator[tuple[aioioth.Stack, aioioth.Stack]]:
    """Two stacks; the first is called ``server``."""
    hosts = aioioth.Hosts({"server": "10.0.0.1", "client": "10.0.0.2"})
    async with (
        aioioth.Stack("memory://lan", ip="10.0.0.1/24", hosts=hosts) as server,
        aioioth.Stack("memory://lan", ip="10.0.0.2/24", hosts=hosts) as client,
    ):
        yield server, client


# PostgreSQL, by asyncpg


@pytest.fixture(scope="module")
def database() -> Iterator[Path]:
    """A PostgreSQL data directory, where another user may go."""
    with tempfile.TemporaryDirectory(prefix="aioioth-") as home:
        yield servers.make_database(Path(home))


POSTGRESQL: Any = {"host": "server", "user": "postgres", "database": "postgres"}


async def test_asyncpg(database: Path) -> None:
    async with lan() as (server, client), servers.postgresql(server, database):
        with client.activate(guard=True):
            connection = await asyncpg.connect(**POSTGRESQL)
            try:
                assert await connection.fetchval("select inet_client_addr()::text") == (
                    "10.0.0.2/32"
                )
                # The one that is cancelled, by way of a second connection.
                with pytest.raises(TimeoutError):
                    await connection.execute("select pg_sleep(600)", timeout=0.1)
                assert await connection.fetchval("select 6 * 7") == 42
            finally:
                await connection.close()


async def test_asyncpg_task_that_is_cancelled(database: Path) -> None:
    async with lan() as (server, client), servers.postgresql(server, database):
        with client.activate(guard=True):
            connection = await asyncpg.connect(**POSTGRESQL)
            watching = await asyncpg.connect(**POSTGRESQL)
            try:
                active = "select 1 from pg_stat_activity where wait_event = 'PgSleep'"
                query = asyncio.create_task(connection.execute("select pg_sleep(600)"))
                while not await watching.fetchval(active):
                    await asyncio.sleep(0.01)
                query.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await query
                assert await connection.fetchval("select 6 * 7") == 42
            finally:
                await connection.close()
                await watching.close()


async def test_asyncpg_pool(database: Path) -> None:
    async def square(pool: Any, number: int) -> int:
        async with pool.acquire() as connection:
            result: int = await connection.fetchval("select $1 * $1::int", number)
        return result

    async with lan() as (server, client), servers.postgresql(server, database):
        with client.activate(guard=True):
            async with asyncpg.create_pool(
                min_size=2, max_size=4, **POSTGRESQL
            ) as pool:
                results = await asyncio.gather(*(square(pool, n) for n in range(20)))
        assert results == [number**2 for number in range(20)]


# Redis, by redis-py


async def test_redis(tmp_path: Path) -> None:
    # Before Python 3.11.3 it needs async_timeout, too.
    redis = pytest.importorskip("redis", exc_type=ImportError)

    def ask() -> Any:
        with redis.Redis(host="server", socket_timeout=20) as database:
            return database.get("key")

    async with lan() as (server, client), servers.redis(server, tmp_path):
        with client.activate(guard=True):
            async with redis.asyncio.Redis(host="server") as database:
                await database.set("key", "value")
                assert await database.get("key") == b"value"
                async with database.pubsub() as subscription:
                    await subscription.subscribe("news")
                    await database.publish("news", "hello")
                    async with asyncio.timeout(20):
                        async for message in subscription.listen():
                            if message["type"] == "message":
                                assert message["data"] == b"hello"
                                break
        with client.activate(patch=True, guard=True):
            assert await asyncio.to_thread(ask) == b"value"


# HTTP, by aiohttp, httpx, uvicorn, urllib


async def peer(request: aiohttp.web.Request) -> aiohttp.web.Response:
    return aiohttp.web.Response(text=str(request.remote))


async def socket_echo(request: aiohttp.web.Request) -> aiohttp.web.WebSocketResponse:
    answer = aiohttp.web.WebSocketResponse()
    await answer.prepare(request)
    async for message in answer:
        await answer.send_str(message.data.upper())
    return answer


@asynccontextmanager
async def aiohttp_server(stack: aioioth.Stack, **tls: Any) -> AsyncIterator[None]:
    """Run an aiohttp server on all addresses of ``stack``; port 443 with TLS."""
    application = aiohttp.web.Application()
    application.router.add_get("/", peer)
    application.router.add_get("/socket", socket_echo)
    runner = aiohttp.web.AppRunner(application)
    with stack.activate(guard=True):
        await runner.setup()
        try:
            site = aiohttp.web.TCPSite(runner, port=443 if tls else 80, **tls)
            await site.start()
            yield
        finally:
            await runner.cleanup()


async def test_aiohttp() -> None:
    async with lan() as (server, client), aiohttp_server(server):
        with client.activate(patch=True, guard=True):
            async with aiohttp.ClientSession() as session:
                for host in "server", "10.0.0.1":
                    async with session.get(f"http://{host}/") as answer:
                        assert await answer.text() == "10.0.0.2"
                async with session.ws_connect("http://server/socket") as connection:
                    await connection.send_str("hello")
                    assert await connection.receive_str() == "HELLO"


async def test_aiohttp_with_tls() -> None:
    authority = trustme.CA()
    for_server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("server").configure_cert(for_server)
    for_client = ssl.create_default_context()
    authority.configure_trust(for_client)
    async with (
        lan() as (server, client),
        aiohttp_server(server, ssl_context=for_server),
    ):
        with client.activate(patch=True, guard=True):
            connector = aiohttp.TCPConnector(ssl=for_client)
            async with aiohttp.ClientSession(connector=connector) as session:
                async with session.get("https://server/") as answer:
                    assert await answer.text() == "10.0.0.2"


async def test_urllib_in_a_thread() -> None:
    def ask() -> bytes:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open("http://server/", timeout=20) as answer:
            data: bytes = answer.read()
        return data

    async with lan() as (server, client), aiohttp_server(server):
        with client.activate(patch=True, guard=True):
            assert await asyncio.to_thread(ask) == b"10.0.0.2"


async def application(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application: who asks?"""
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["client"][0].encode()})


@asynccontextmanager
async def uvicorn_server(stack: aioioth.Stack) -> AsyncIterator[None]:
    """Run uvicorn on all addresses of ``stack``, port 80."""
    config = uvicorn.Config(
        application, host="", port=80, lifespan="off", log_config=None, ws="none"
    )
    server = uvicorn.Server(config)
    with stack.activate(guard=True):
        serving = asyncio.create_task(server.serve())
    try:
        await stack.wait_listening("127.0.0.1", 80, servers.PATIENCE)
        yield
    finally:
        server.should_exit = True
        await serving


async def test_httpx_and_uvicorn() -> None:
    async with lan() as (server, client), uvicorn_server(server):
        with client.activate(guard=True):
            async with httpx.AsyncClient(trust_env=False) as session:
                for host in "server", "10.0.0.1":
                    answer = await session.get(f"http://{host}/")
                    assert answer.text == "10.0.0.2"


async def test_httpx_in_a_thread() -> None:
    def ask() -> str:
        return httpx.get("http://server/", trust_env=False, timeout=20).text

    async with lan() as (server, client), uvicorn_server(server):
        with client.activate(patch=True, guard=True):
            assert await asyncio.to_thread(ask) == "10.0.0.2"


# websockets


async def test_websockets() -> None:
    async def echo(connection: websockets.asyncio.server.ServerConnection) -> None:
        async for message in connection:
            assert isinstance(message, str)
            await connection.send(f"{message}, {connection.remote_address[0]}")

    async with lan() as (server, client):
        with server.activate(guard=True):
            serving = await websockets.asyncio.server.serve(echo, None, 80)
        async with serving:
            with client.activate(guard=True):
                async with websockets.asyncio.client.connect(
                    "ws://server/"
                ) as connection:
                    await connection.send("hello")
                    assert await connection.recv() == "hello, 10.0.0.2"


# asyncssh


async def test_asyncssh() -> None:
    host_key = asyncssh.generate_private_key("ssh-ed25519")
    key = asyncssh.generate_private_key("ssh-ed25519")
    known = asyncssh.import_known_hosts(
        f"server {host_key.export_public_key().decode()}"
    )
    allowed = asyncssh.import_authorized_keys(key.export_public_key().decode())

    def command(process: asyncssh.SSHServerProcess[str]) -> None:
        address = process.get_extra_info("peername")[0]
        process.stdout.write(f"{process.command} for {address}")
        process.exit(0)

    async with lan() as (server, client):
        with server.activate(guard=True):
            listening = await asyncssh.listen(
                "",
                22,
                server_host_keys=[host_key],
                authorized_client_keys=allowed,
                process_factory=command,
                config=None,
            )
        async with listening:
            with client.activate(guard=True):
                async with asyncssh.connect(
                    "server",
                    username="somebody",
                    client_keys=[key],
                    known_hosts=known,
                    agent_path=None,
                    config=None,
                ) as connection:
                    done = await connection.run("uptime", check=True)
        assert done.stdout == "uptime for 10.0.0.2"


# All of it, without anything of ours but the runner


@pytest.mark.parametrize(
    "factory", [None, uvloop.new_event_loop], ids=["asyncio's", "uvloop's"]
)
def test_by_the_runner(factory: Any) -> None:
    async def main() -> str:
        async with aiohttp_server(stack):
            async with httpx.AsyncClient(trust_env=False) as session:
                return (await session.get("http://10.0.0.1/")).text

    stack = aioioth.Stack("memory://lan", ip="10.0.0.1/24")
    assert aioioth.run(main(), stack=stack, loop_factory=factory) == "10.0.0.1"
