"""Servers that run until they are told to stop, in a task of their own."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine


@asynccontextmanager
async def serving(
    coroutine: Coroutine[Any, Any, None],
    *,
    ready: asyncio.Event,
    stop: Callable[[], object],
) -> AsyncIterator[asyncio.Task[None]]:
    """Run a server for the length of the block.

    Args:
        coroutine: The server; ends some time after ``stop`` was called.
        ready: Set by the server when it accepts connections.
        stop: Asks the server to finish what it is doing and end.

    Yields:
        The server's task.

    Raises:
        RuntimeError: The server ended before it was ready, without an error.

    Cancellation:
        The server is told to stop and waited for. Cancelled once more, the server
        itself is cancelled.
    """
    task = asyncio.create_task(coroutine)
    task.add_done_callback(lambda _: ready.set())
    try:
        await ready.wait()
        if task.done():
            task.result()
            msg = "the server ended before it served; its log says why"
            raise RuntimeError(msg)
        yield task
    finally:
        stop()
        await _end(task)


async def _end(task: asyncio.Task[None]) -> None:
    interrupted: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            interrupted = error
            task.cancel()
    if interrupted is not None:
        raise interrupted
    task.result()
