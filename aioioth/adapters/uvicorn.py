"""uvicorn on a stack.

async with open_server(stack, uvicorn.Config(app, host="10.0.0.1", port=80)):
    ...
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from typing_extensions import override

from aioioth.adapters._needs import needs
from aioioth.adapters._serving import serving
from aioioth.adapters._sockets import bound, let_go
from aioioth.errors import ConfigurationError

with needs("uvicorn", "uvicorn>=0.30"):
    import uvicorn
    from uvicorn.lifespan.on import LifespanOn

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Generator

    from aioioth.stack import Stack

__all__ = ["open_server", "serve"]


@asynccontextmanager
async def open_server(
    stack: Stack, config: uvicorn.Config
) -> AsyncIterator[uvicorn.Server]:
    """Serve for the length of the block.

    The program's signals are left alone: Ctrl-C cancels the program, as without
    uvicorn, and that stops the server. What concerns other processes (``workers``,
    ``reload``) has no effect.

    Args:
        stack: Where to listen.
        config: Its ``host`` and ``port`` are of the stack.

    Yields:
        The running server, which accepts connections. When ``should_exit`` is set, it
        stops before the end of the block.

    Raises:
        OSError: As asyncio raises it: the address is in use, or not of the stack.
        RuntimeError: The application refuses to start; uvicorn's log says why.
        ConfigurationError: The configuration says to listen elsewhere.
        ClosedError: The stack is not open.

    Cancellation:
        The server shuts down as at the end of the block: it waits for requests that
        are under way, ``timeout_graceful_shutdown`` seconds at most. Cancelled once
        more, it drops them.
    """
    async with _running(stack, config) as (server, _):
        yield server


async def serve(stack: Stack, config: uvicorn.Config) -> None:
    """Serve until cancelled; see `open_server` for the rest.

    Raises:
        OSError: As `open_server`.
        RuntimeError: As `open_server`.
        ClosedError: The stack is not open.
    """
    async with _running(stack, config) as (_, task):
        await asyncio.wait([task])


@asynccontextmanager
async def _running(
    stack: Stack, config: uvicorn.Config
) -> AsyncIterator[tuple[_Server, asyncio.Task[None]]]:
    if config.uds is not None or config.fd is not None:
        msg = "on a stack, uvicorn listens on host and port; leave uds and fd away"
        raise ConfigurationError(msg)
    server = _Server(config)
    sockets = await bound(stack, config.host, config.port)
    try:
        async with serving(
            server.serve(sockets), ready=server.ready, stop=server.stop
        ) as task:
            yield server, task
    finally:
        # uvicorn has closed them, unless it did not get that far.
        let_go(sockets)


class _Server(uvicorn.Server):
    """Part of a program, not the program: no signals, no exit."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    def stop(self) -> None:
        self.should_exit = True

    @override
    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except SystemExit:
            msg = "the application refuses to start; uvicorn's log says why"
            raise RuntimeError(msg) from None
        if self.started:
            self.ready.set()

    @override
    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().serve(sockets)
        except asyncio.CancelledError:
            self._drop()
            raise

    def _drop(self) -> None:
        """Leave nothing, when there is no time for what uvicorn's shutdown does."""
        for server in getattr(self, "servers", ()):
            server.close()
        for task in self.server_state.tasks:
            task.cancel()
        for connection in self.server_state.connections:
            connection.transport.abort()
        lifespan = getattr(self, "lifespan", None)
        if isinstance(lifespan, LifespanOn):
            lifespan.receive_queue.put_nowait({"type": "lifespan.shutdown"})
