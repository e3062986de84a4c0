"""hypercorn on a stack.

config = hypercorn.Config()
config.bind = ["10.0.0.1:80"]
async with open_server(stack, app, config):
    ...
"""

from __future__ import annotations

import asyncio
import copy
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal

from aioioth.adapters._needs import needs
from aioioth.adapters._serving import serving
from aioioth.adapters._sockets import bound, let_go

with needs("hypercorn", "hypercorn>=0.17"):
    import hypercorn.asyncio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from hypercorn.config import Config, Sockets
    from hypercorn.typing import Framework

    from aioioth.stack import Stack

__all__ = ["open_server", "serve"]

_Mode = Literal["asgi", "wsgi"] | None

_BINDS = [
    ("bind", socket.SOCK_STREAM),
    ("insecure_bind", socket.SOCK_STREAM),
    ("quic_bind", socket.SOCK_DGRAM),
]


@asynccontextmanager
async def open_server(
    stack: Stack, app: Framework, config: Config, *, mode: _Mode = None
) -> AsyncIterator[list[socket.socket]]:
    """Serve for the length of the block, on asyncio or uvloop.

    The program's signals are left alone: Ctrl-C cancels the program, as without
    hypercorn, and that stops the server.

    Args:
        stack: Where to listen.
        app: ASGI or WSGI application.
        config: Its ``bind``, ``insecure_bind`` and ``quic_bind`` are of the stack,
            ``unix:`` and ``fd:`` excepted. It is not changed.
        mode: None: find out which of both the application is.

    Yields:
        The listening sockets, hypercorn's to close.

    Raises:
        OSError: As asyncio raises it: the address is in use, or not of the stack.
        ClosedError: The stack is not open.

    Cancellation:
        The server shuts down as at the end of the block: it waits for requests that
        are under way, ``graceful_timeout`` seconds at most.
    """
    async with _running(stack, app, config, mode) as (sockets, _):
        yield sockets


async def serve(
    stack: Stack,
    app: Framework,
    config: Config,
    *,
    shutdown_trigger: Callable[..., Awaitable[Any]] | None = None,
    mode: _Mode = None,
) -> None:
    """Serve until ``shutdown_trigger`` returns, or until cancelled.

    As `hypercorn.asyncio.serve`, but None as trigger means none: signals are left
    alone. See `open_server` for the rest.

    Raises:
        OSError: As `open_server`.
        ClosedError: The stack is not open.
    """
    async with _running(stack, app, config, mode) as (_, task):
        if shutdown_trigger is None:
            await asyncio.wait([task])
            return
        triggered = asyncio.create_task(_call(shutdown_trigger))
        try:
            await asyncio.wait([task, triggered], return_when=asyncio.FIRST_COMPLETED)
        finally:
            triggered.cancel()
        if triggered.done():
            triggered.result()


async def _call(trigger: Callable[..., Awaitable[Any]]) -> None:
    await trigger()


@asynccontextmanager
async def _running(
    stack: Stack,
    app: Framework,
    config: Config,
    mode: _Mode,
) -> AsyncIterator[tuple[list[socket.socket], asyncio.Task[None]]]:
    ready, stopping = asyncio.Event(), asyncio.Event()

    async def shutdown_trigger() -> None:
        ready.set()  # hypercorn awaits its trigger when all sockets are served
        await stopping.wait()

    sockets: list[socket.socket] = []
    try:
        own_config = await _bind(stack, config, sockets)
        coroutine = hypercorn.asyncio.serve(
            app, own_config, shutdown_trigger=shutdown_trigger, mode=mode
        )
        async with serving(coroutine, ready=ready, stop=stopping.set) as task:
            yield sockets, task
    finally:
        # hypercorn has closed them, unless it did not get that far.
        let_go(sockets)


async def _bind(stack: Stack, config: Config, sockets: list[socket.socket]) -> Config:
    """Return a configuration that names bound sockets of the stack.

    Args:
        stack: Where they listen.
        config: Names addresses.
        sockets: Where the sockets are put; the caller closes what stays open of them.
    """
    own = copy.copy(config)
    for name, kind in _BINDS:
        descriptors = []
        for bind in getattr(config, name):
            if bind.startswith(("unix:", "fd:")):
                descriptors.append(bind)
                continue
            found = await bound(stack, *_host_and_port(bind), kind=kind)
            sockets += found
            descriptors += [f"fd://{sock.fileno()}" for sock in found]
        setattr(own, name, descriptors)

    def create_sockets() -> Sockets:
        made = type(config).create_sockets(own)
        # hypercorn has made sockets of its own of the descriptors: ours let go.
        for sock in sockets:
            sock.detach()
        sockets[:] = made.secure_sockets + made.insecure_sockets + made.quic_sockets
        return made

    own.create_sockets = create_sockets  # type: ignore[method-assign]
    return own


def _host_and_port(bind: str) -> tuple[str, int]:
    """Take a bind of hypercorn's apart: ``host``, ``host:port``, ``[::1]:port``."""
    host, colon, port = bind.replace("[", "").replace("]", "").rpartition(":")
    if colon and port.isdecimal():
        return host, int(port)
    return bind, 8000  # hypercorn's default
