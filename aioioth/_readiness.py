"""Waiting until a UNIX socket can be read, or its peer has gone."""

from __future__ import annotations

import asyncio
import select
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket


async def until_readable(sock: socket.socket) -> None:
    """Wait until there is something to read, the end included."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    # A peer that is killed leaves an error on the socket, and libuv gives up such a
    # descriptor without a word (EPOLLERR). An epoll set has no errors.
    with select.epoll() as watched:
        watched.register(sock, select.EPOLLIN)
        loop.add_reader(watched.fileno(), wake)
        try:
            await ready
        finally:
            loop.remove_reader(watched.fileno())
