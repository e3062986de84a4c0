"""redis-py on a stack; needs redis-server, which runs in another stack."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import pytest
from redis import exceptions
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

import aioioth
from aioioth.adapters.redis import StackConnection, client, pool
from aioioth.testing import cancel_everywhere

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.adapters.conftest import Lan, Tls

PROGRAM = shutil.which("redis-server")
ONCE: dict[str, Any] = {"retry": Retry(NoBackoff(), 0)}

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no redis-server")


@asynccontextmanager
async def serving(
    stack: aioioth.Stack, *options: str, port: int = 6379
) -> AsyncIterator[None]:
    assert PROGRAM is not None
    server = await stack.create_subprocess_exec(
        PROGRAM,
        *["--save", "", "--protected-mode", "no", "--bind", "10.0.0.1", "fd00::1"],
        *["--dir", "/tmp", *options],
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        await stack.wait_listening("10.0.0.1", port, timeout=20)
        yield
    finally:
        server.terminate()
        await server.wait()


@pytest.mark.parametrize("host", ["10.0.0.1", "fd00::1", "web"])
async def test_client(lan: Lan, host: str) -> None:
    async with (
        serving(lan.server),
        client(lan.client, host, decode_responses=True) as redis,
    ):
        await redis.set("greeting", "hello")
        assert await redis.get("greeting") == "hello"
        [me] = await redis.client_list()
        assert me["addr"].rsplit(":", 1)[0] in {"10.0.0.2", "[fd00::2]"}


async def test_pipeline_and_publish(lan: Lan) -> None:
    async with serving(lan.server), client(lan.client, "10.0.0.1") as redis:
        async with redis.pipeline() as pipeline:
            for _ in range(2):
                cast("Any", pipeline).incr("n")  # queued, not awaited
            assert await pipeline.execute() == [1, 2]
        async with redis.pubsub() as channel:
            await channel.subscribe("news")
            assert (await channel.get_message(timeout=10))["type"] == "subscribe"
            await redis.publish("news", "hello")
            assert (await channel.get_message(timeout=10))["data"] == b"hello"


async def test_pool(lan: Lan) -> None:
    async with serving(lan.server):
        made = pool(lan.client, "redis://10.0.0.1/3", max_connections=20)
        async with Redis.from_pool(made) as redis:
            await asyncio.gather(*(redis.incr("n") for _ in range(20)))
            assert await redis.get("n") == b"20"
            assert "db=3" in repr(made)


async def test_a_pool_of_ones_own(lan: Lan) -> None:
    async with serving(lan.server):
        own = ConnectionPool(
            connection_class=StackConnection, stack=lan.client, host="10.0.0.1"
        )
        async with Redis.from_pool(own) as redis:
            assert await redis.ping()


async def test_tls(lan: Lan, tls: Tls, tmp_path: Path) -> None:
    pem, authority = tmp_path / "server.pem", tmp_path / "ca.pem"
    tls.certificate.private_key_and_cert_chain_pem.write_to_path(str(pem))
    tls.authority.cert_pem.write_to_path(str(authority))
    options = ["--port", "0", "--tls-port", "6380", "--tls-auth-clients", "no"]
    options += ["--tls-cert-file", str(pem), "--tls-key-file", str(pem)]
    options += ["--tls-ca-cert-file", str(authority)]
    trust: dict[str, Any] = {"ssl_ca_certs": str(authority)}
    async with serving(lan.server, *options, port=6380):
        async with client(lan.client, "web", 6380, ssl=True, **trust) as redis:
            assert await redis.ping()
        async with Redis.from_pool(
            pool(lan.client, "rediss://10.0.0.1:6380", **trust)
        ) as redis:
            assert await redis.ping()
        async with client(lan.client, "10.0.0.1", 6380, ssl=True, **ONCE) as redis:
            with pytest.raises(
                exceptions.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"
            ):
                await redis.ping()
    assert lan.client.sockets() == []


async def test_the_password_is_wrong(lan: Lan) -> None:
    async with serving(lan.server, "--requirepass", "secret"):
        async with client(lan.client, "10.0.0.1", password="secret") as redis:
            assert await redis.ping()
        async with client(lan.client, "10.0.0.1", password="wrong", **ONCE) as redis:
            with pytest.raises(exceptions.AuthenticationError):
                await redis.ping()


async def test_refused(lan: Lan) -> None:
    async with client(lan.client, "10.0.0.1", **ONCE) as redis:
        with pytest.raises(exceptions.ConnectionError):
            await redis.ping()


async def test_nobody_has_that_name(lan: Lan) -> None:
    async with client(lan.client, "nobody", **ONCE) as redis:
        with pytest.raises(exceptions.ConnectionError):
            await redis.ping()


async def test_nobody_answers(lan: Lan) -> None:
    impatient = client(lan.client, "10.0.0.77", socket_connect_timeout=0.05, **ONCE)
    async with impatient as redis:
        with pytest.raises(exceptions.TimeoutError):
            await redis.ping()


async def test_the_stack_is_closed(closed: aioioth.Stack) -> None:
    async with client(closed, "10.0.0.1") as redis:
        with pytest.raises(aioioth.errors.ClosedError):
            await redis.ping()


async def test_not_over_tcp(lan: Lan) -> None:
    with pytest.raises(aioioth.errors.ConfigurationError, match="UnixDomainSocket"):
        await client(lan.client, unix_socket_path="/nowhere")
    with pytest.raises(aioioth.errors.ConfigurationError, match="UnixDomainSocket"):
        pool(lan.client, "unix:///nowhere")


@pytest.mark.parametrize("times", [1, 2])
async def test_cancelled(lan: Lan, times: int) -> None:
    """What comes after, from the handshake on, is redis-py's own."""

    async def start() -> Any:
        connection = StackConnection(stack=lan.client, host="web")
        await connection._connect()
        return connection

    async def hang_up(connection: Any) -> None:
        await connection.disconnect()

    async with serving(lan.server):
        assert await cancel_everywhere(start, undo=hang_up, times=times) > 0
