"""websockets on a stack.

async with connect(stack, "ws://web/") as connection:
    await connection.send("hello")
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from aioioth.adapters._needs import needs
from aioioth.adapters._sockets import bound_once, connected, let_go

with needs("websockets", "websockets>=14"):
    from websockets.asyncio import client, server
    from websockets.uri import parse_uri

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Generator

    from aioioth.stack import Stack

__all__ = ["connect", "serve"]


class connect(client.connect):  # noqa: N801  (as in websockets)
    """As `websockets.asyncio.client.connect`, from a stack.

    To be awaited, entered with ``async with``, or iterated over with ``async for`` to
    connect again and again. Proxies are not used and redirects not followed.

    Args:
        stack: Where the connection starts, and names are looked up.
        uri: ``ws://`` or ``wss://``.
        open_timeout: Seconds for all of it; None waits for ever.
        host: Connect to this name or address, not to the URI's.
        port: Connect to this port, not to the URI's.
        local_addr: Address and port to connect from.
        kwds: As for `websockets.asyncio.client.connect`.

    Raises:
        OSError: As asyncio raises it.
        TimeoutError: It took longer than ``open_timeout``.
        ClosedError: The stack is not open.
    """

    def __init__(
        self,
        stack: Stack,
        uri: str,
        *,
        open_timeout: float | None = 10,
        host: str | None = None,
        port: int | None = None,
        local_addr: tuple[str, int] | None = None,
        **kwds: Any,
    ) -> None:
        # It looks after everything but the connection itself.
        super().__init__(uri, open_timeout=open_timeout, proxy=None, **kwds)
        wanted = parse_uri(uri)
        self._stack = stack
        self._address = host or wanted.host, port or wanted.port
        self._local_addr = local_addr
        self._parameters = kwds
        self._timeout = open_timeout
        self._uri = uri

    @override
    def __await__(self) -> Generator[Any, None, client.ClientConnection]:
        return self._connect().__await__()

    async def _connect(self) -> client.ClientConnection:
        async with asyncio.timeout(self._timeout):
            sock = await connected(
                self._stack, *self._address, local_addr=self._local_addr
            )
            try:
                return await client.connect(
                    self._uri,
                    sock=sock,
                    proxy=None,
                    open_timeout=None,
                    **self._parameters,
                )
            except BaseException:
                sock.close()
                raise


@asynccontextmanager
async def serve(
    stack: Stack,
    handler: Callable[[server.ServerConnection], Awaitable[None]],
    host: str | None = None,
    port: int = 0,
    **kwds: Any,
) -> AsyncIterator[server.Server]:
    """Serve on a stack for the length of the block.

    Args:
        stack: Where to listen.
        handler: Called for each connection.
        host: Name or address; None for all addresses.
        port: TCP port; 0 for a free one.
        kwds: As for `websockets.asyncio.server.serve`.

    Yields:
        The server.

    Raises:
        OSError: As asyncio raises it.
        ClosedError: The stack is not open.

    Cancellation:
        Connections are closed, and handlers waited for.
    """
    sock = await bound_once(stack, host, port)
    try:
        # Made first and started then, so that it can be closed if cancelled between.
        made = await server.serve(handler, sock=sock, start_serving=False, **kwds)
        try:
            await made.start_serving()
            yield made
        finally:
            made.close()
            await made.wait_closed()
    finally:
        let_go([sock])
