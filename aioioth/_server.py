"""One server over several sockets."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, Self

from typing_extensions import override

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence


class ServerGroup(asyncio.Server):
    """Does what `asyncio.Server` does, for servers that the loop made one by one.

    The loops take one ready socket for each server (``sock=``), and have no way to give
    a server several. uvloop's servers (0.23) moreover let `serve_forever` wait on when
    they are closed. It is an `asyncio.Server` by its face only, so that programs which
    ask for one are content: nothing of that class's own is used.
    """

    def __init__(self, servers: Sequence[Any]) -> None:
        # Not super().__init__(): there is nothing to set up, all of it is overridden.
        self._servers = tuple(servers)
        self._forever: asyncio.Future[None] | None = None

    @property
    @override
    def sockets(self) -> tuple[socket.socket, ...]:
        """The listening sockets; empty when closed."""
        return tuple(sock for server in self._servers for sock in server.sockets)

    @override
    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop of the servers."""
        loop: asyncio.AbstractEventLoop = self._servers[0].get_loop()
        return loop

    @override
    def is_serving(self) -> bool:
        """Tell whether connections are accepted."""
        return all(server.is_serving() for server in self._servers)

    @override
    async def start_serving(self) -> None:
        """Accept connections; nothing happens if they are already."""
        for server in self._servers:
            await server.start_serving()

    @override
    async def serve_forever(self) -> None:
        """Accept connections until cancelled, then close; see `asyncio.Server`."""
        if self._forever is not None:
            msg = f"server {self!r} is already being awaited on serve_forever()"
            raise RuntimeError(msg)
        if not self.sockets:
            msg = f"server {self!r} is closed"
            raise RuntimeError(msg)
        self._forever = forever = self.get_loop().create_future()
        try:
            for server in self._servers:
                if not forever.done():  # else it was closed, meanwhile
                    await server.start_serving()
            await forever
        except asyncio.CancelledError:
            self.close()
            await self.wait_closed()
            raise
        finally:
            self._forever = None

    @override
    def close(self) -> None:
        """Stop listening; connections go on."""
        for server in self._servers:
            server.close()
        if self._forever is not None and not self._forever.done():
            self._forever.cancel()

    @override
    async def wait_closed(self) -> None:
        """Wait as `asyncio.Server.wait_closed` does."""
        for server in self._servers:
            await server.wait_closed()

    if sys.version_info >= (3, 13):  # as asyncio's; uvloop's servers lack them

        @override
        def close_clients(self) -> None:
            """Close all connections."""
            for server in self._servers:
                server.close_clients()

        @override
        def abort_clients(self) -> None:
            """Abort all connections."""
            for server in self._servers:
                server.abort_clients()

    @override
    async def __aenter__(self) -> Self:
        return self

    @override
    async def __aexit__(self, *exc: object) -> None:
        self.close()
        await self.wait_closed()

    @override
    def __repr__(self) -> str:
        return f"<ServerGroup sockets={self.sockets!r}>"
