"""Two stacks that know each other by name, and certificates for the server."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import trustme

import aioioth

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    Answering = Callable[..., AbstractAsyncContextManager[None]]


class Lan(NamedTuple):
    """The server is called ``web``, and is 10.0.0.1 and fd00::1."""

    server: aioioth.Stack
    client: aioioth.Stack


class Tls(NamedTuple):
    """For ``web``, 10.0.0.1 and fd00::1."""

    server: ssl.SSLContext
    client: ssl.SSLContext
    certificate: trustme.LeafCert
    authority: trustme.CA


HOSTS = {"web": ["10.0.0.1", "fd00::1"], "two": ["10.0.0.1", "10.0.0.3"]}


@pytest.fixture
async def lan() -> AsyncIterator[Lan]:
    async with (
        aioioth.Stack(
            "memory://lan", ip=["10.0.0.1/24", "fd00::1/64"], hosts=HOSTS
        ) as server,
        aioioth.Stack(
            "memory://lan", ip=["10.0.0.2/24", "fd00::2/64"], hosts=HOSTS
        ) as client,
    ):
        yield Lan(server, client)


@pytest.fixture
async def closed() -> aioioth.Stack:
    async with aioioth.Stack() as stack:
        return stack


@pytest.fixture(scope="session")
def tls() -> Tls:
    authority = trustme.CA()
    certificate = authority.issue_cert("web", "10.0.0.1", "fd00::1")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return Tls(server, client, certificate, authority)


@pytest.fixture
def answering() -> Answering:
    """An HTTP server that greets; ``/slow`` never answers, ``/bye`` hangs up then."""

    async def answer(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        peer = writer.get_extra_info("peername")[0]
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                if request.startswith(b"GET /slow "):
                    await reader.read()
                    break
                text = f"hello {peer}".encode()
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(text)
                )
                writer.write(text)
                await writer.drain()
                if request.startswith(b"GET /bye "):
                    break
        writer.close()
        with suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()

    @asynccontextmanager
    async def serve(
        stack: aioioth.Stack, host: str | None = None, port: int = 80, **kwds: Any
    ) -> AsyncIterator[None]:
        tasks = set()

        async def tracked(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            task = asyncio.current_task()
            tasks.add(task)
            await answer(reader, writer)
            tasks.discard(task)

        async with await stack.start_server(tracked, host, port, **kwds):
            yield
            while tasks:
                await asyncio.sleep(0)

    return serve
