"""Event loops whose own calls use the default stack."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from functools import cache
from typing import IO, TYPE_CHECKING, Any

from typing_extensions import override

from aioioth import _sendfile, endpoints
from aioioth._context import current
from aioioth.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioioth.stack import Stack

    # For type checkers, a loop; at run time the class stands before a loop's own.
    _Loop = asyncio.AbstractEventLoop
else:
    _Loop = object

_INTERNET = {socket.AF_UNSPEC, socket.AF_INET, socket.AF_INET6}


class StackLoop(_Loop):
    """A mixin: calls that open, connect or look up do it on the default stack.

    With sockets that the caller brings, and without a default stack, they are the
    loop's own.
    """

    @override
    async def create_connection(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: Any = None,
        port: Any = None,
        **kwds: Any,
    ) -> tuple[asyncio.BaseTransport, asyncio.BaseProtocol]:
        """See `asyncio.loop.create_connection`."""
        stack = _stack_for(kwds)
        if stack is None:
            return await super().create_connection(protocol_factory, host, port, **kwds)
        return await endpoints.create_connection(
            stack, protocol_factory, host, port, **kwds
        )

    @override
    async def create_server(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: Any = None,
        port: Any = None,
        **kwds: Any,
    ) -> asyncio.Server:
        """See `asyncio.loop.create_server`."""
        stack = _stack_for(kwds)
        if stack is None:
            return await super().create_server(protocol_factory, host, port, **kwds)
        return await endpoints.create_server(
            stack, protocol_factory, host, port, **kwds
        )

    @override
    async def create_datagram_endpoint(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.DatagramProtocol],
        local_addr: Any = None,
        remote_addr: Any = None,
        **kwds: Any,
    ) -> tuple[asyncio.DatagramTransport, asyncio.DatagramProtocol]:
        """See `asyncio.loop.create_datagram_endpoint`."""
        internet = kwds.get("family", 0) in _INTERNET
        stack = _stack_for(kwds) if internet else None
        if stack is None:
            return await super().create_datagram_endpoint(
                protocol_factory, local_addr, remote_addr, **kwds
            )
        return await endpoints.create_datagram_endpoint(
            stack, protocol_factory, local_addr, remote_addr, **kwds
        )

    @override
    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """See `asyncio.loop.sock_connect`."""
        stack = current.get()
        if stack is None:
            await super().sock_connect(sock, address)
        else:
            await endpoints.sock_connect(stack.check_open(), sock, address)

    @override
    async def getaddrinfo(self, host: Any, port: Any, **kwds: Any) -> Any:
        """See `asyncio.loop.getaddrinfo`."""
        stack = current.get()
        if stack is None:
            return await super().getaddrinfo(host, port, **kwds)
        return await stack.getaddrinfo(host, port, **kwds)

    @override
    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> tuple[str, str]:
        """See `asyncio.loop.getnameinfo`."""
        stack = current.get()
        if stack is None:
            return await super().getnameinfo(sockaddr, flags)
        return await stack.getnameinfo(sockaddr, flags)

    @override
    async def sendfile(
        self,
        transport: asyncio.WriteTransport,
        file: IO[bytes],
        *args: Any,
        **kwds: Any,
    ) -> int:
        """See `asyncio.loop.sendfile`; also on loops that lack it."""
        try:
            return await super().sendfile(transport, file, *args, **kwds)
        except NotImplementedError:  # uvloop
            return await _sendfile.sendfile(transport, file, *args, **kwds)


def _stack_for(kwds: dict[str, Any]) -> Stack | None:
    """Return the default stack, open, for a call that brings no socket of its own."""
    stack = current.get()
    if stack is None or kwds.get("sock") is not None:
        return None
    return stack.check_open()


def make_aware(loop: asyncio.AbstractEventLoop) -> asyncio.AbstractEventLoop:
    """Give a loop `StackLoop`'s calls, and return it.

    Its class is exchanged, since factories return loops ready made; the loops of
    asyncio and uvloop are Python classes that take it.

    Raises:
        ConfigurationError: The loop is of a class that cannot be derived from.
    """
    own: Any = type(loop)
    if issubclass(own, StackLoop):
        return loop
    try:
        loop.__class__ = _aware_class(own)
    except TypeError as error:
        msg = (
            f"a loop of {own.__module__}.{own.__qualname__} cannot be made to use "
            f"stacks ({error}); take asyncio's or uvloop's"
        )
        raise ConfigurationError(msg) from None
    return loop


@cache
def _aware_class(own: Any) -> Any:  # noqa: ANN401
    return type(f"Stack{own.__name__}", (StackLoop, own), {"__module__": __name__})


def make_running_aware() -> None:
    """Give the loop that runs here `StackLoop`'s calls, if there is one of asyncio's.

    Raises:
        ConfigurationError: The loop is of a class that cannot be derived from.
    """
    with suppress(RuntimeError):
        make_aware(asyncio.get_running_loop())


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a new loop of asyncio whose calls use the default stack.

    For ``loop_factory`` of `asyncio.Runner`, pytest-asyncio and their like.
    """
    return make_aware(asyncio.new_event_loop())
