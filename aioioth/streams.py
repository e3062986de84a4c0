"""asyncio's streams on a stack: change one name, and the code moves over.

Source: CPython 3.11 to 3.13, documentation of asyncio streams.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from aioioth import endpoints
from aioioth._context import current_stack

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioioth.stack import Stack

__all__ = ["open_connection", "start_server"]

LIMIT = 2**16  # asyncio's own default


async def open_connection(
    host: str | None = None,
    port: int | str | None = None,
    *,
    stack: Stack | None = None,
    limit: int = LIMIT,
    **kwds: Any,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect, and return a reader and a writer; see `asyncio.open_connection`.

    Args:
        host: Address or name.
        port: Number or service name.
        stack: Where to connect from; None for the default stack, or the host's own.
        limit: Most bytes that the reader buffers.
        kwds: As for `asyncio.loop.create_connection`.

    Raises:
        OSError: As asyncio raises it.
        ClosedError: The stack is not open.
    """
    stack = stack or current_stack()
    if stack is None:
        return await asyncio.open_connection(host, port, limit=limit, **kwds)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=limit, loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport, _ = await endpoints.create_connection(
        stack, lambda: protocol, host, port, **kwds
    )
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


async def start_server(
    client_connected_cb: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any],
    host: str | Sequence[str] | None = None,
    port: int | str | None = None,
    *,
    stack: Stack | None = None,
    limit: int = LIMIT,
    **kwds: Any,
) -> asyncio.Server:
    """Call ``client_connected_cb`` for each connection; see `asyncio.start_server`.

    Args:
        client_connected_cb: Called with a reader and a writer; may be a coroutine.
        host: Address or name, or several; None or ``""`` for all addresses.
        port: Number or service name.
        stack: Where to listen; None for the default stack, or the host's own.
        limit: Most bytes that each reader buffers.
        kwds: As for `asyncio.loop.create_server`.

    Raises:
        OSError: As asyncio raises it.
        ClosedError: The stack is not open.
    """
    stack = stack or current_stack()
    if stack is None:
        return await asyncio.start_server(
            client_connected_cb, host, port, limit=limit, **kwds
        )
    loop = asyncio.get_running_loop()

    def factory() -> asyncio.StreamReaderProtocol:
        reader = asyncio.StreamReader(limit=limit, loop=loop)
        return asyncio.StreamReaderProtocol(reader, client_connected_cb, loop=loop)

    return await endpoints.create_server(stack, factory, host, port, **kwds)
