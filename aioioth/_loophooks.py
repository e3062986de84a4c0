"""What event loops do without Python's socket module, or in threads of theirs.

uvloop opens its sockets in C, and every loop asks the host's resolver in a thread that
does not have the caller's context. So the loops' own calls are replaced while a guard
or a patch needs it, those of asyncio's loop and of uvloop's.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import TYPE_CHECKING, Any

from aioioth import _sockethooks, _watch
from aioioth._literals import is_name
from aioioth._patching import Patch

if TYPE_CHECKING:
    from collections.abc import Callable

_OPENING = ("create_connection", "create_server", "create_datagram_endpoint")


def _install(patch: Patch) -> None:
    classes: list[Any] = [asyncio.BaseEventLoop]
    uvloop = sys.modules.get("uvloop")
    if uvloop is not None:
        classes.append(uvloop.Loop)
        connect = _connecting(uvloop.Loop.sock_connect)
        patch.replace(uvloop.Loop, "sock_connect", connect)
    for each in classes:
        for name in _OPENING:
            method = getattr(each, name)
            opening = _opening(method, in_c=each is not asyncio.BaseEventLoop)
            patch.replace(each, name, opening)
        patch.replace(each, "getaddrinfo", _getaddrinfo(each.getaddrinfo))
        patch.replace(each, "getnameinfo", _getnameinfo(each.getnameinfo))


installed = Patch(_install).installed


def _opening(method: Callable[..., Any], *, in_c: bool) -> Callable[..., Any]:
    """Return a method that tells the guard before it opens a socket.

    asyncio's would be found out by its sockets, too, but perhaps in a task without any
    line of the caller's (happy eyeballs).
    """

    async def call(self: object, *args: Any, **kwds: Any) -> Any:  # noqa: ANN401
        sock = kwds.get("sock")
        if sock is not None:
            _watch.used(sock, f"gives the loop's {method.__name__}() a socket")
        elif kwds.get("family") != socket.AF_UNIX and (
            in_c or _sockethooks.stack_in_charge() is None
        ):
            _watch.opened_on_host(f"calls the loop's {method.__name__}()")
        return await method(self, *args, **kwds)

    return _called(call, method)


def _connecting(method: Callable[..., Any]) -> Callable[..., Any]:
    async def call(self: object, sock: socket.socket, address: Any) -> Any:  # noqa: ANN401
        if isinstance(address, tuple) and address and is_name(address[0]):
            _watch.asked_host(address[0])
        return await method(self, sock, address)

    return _called(call, method)


def _getaddrinfo(method: Callable[..., Any]) -> Callable[..., Any]:
    async def call(self: object, host: Any, port: Any, **kwds: Any) -> Any:  # noqa: ANN401
        stack = _sockethooks.stack_in_charge()
        if stack is not None:
            return await stack.getaddrinfo(host, port, **kwds)
        if is_name(host) and not kwds.get("flags", 0) & socket.AI_NUMERICHOST:
            _watch.asked_host(host)
        return await method(self, host, port, **kwds)

    return _called(call, method)


def _getnameinfo(method: Callable[..., Any]) -> Callable[..., Any]:
    async def call(self: object, sockaddr: Any, flags: int = 0) -> Any:  # noqa: ANN401
        stack = _sockethooks.stack_in_charge()
        if stack is not None:
            return await stack.getnameinfo(sockaddr, flags)
        if not flags & socket.NI_NUMERICHOST:
            _watch.asked_host(sockaddr[0])
        return await method(self, sockaddr, flags)

    return _called(call, method)


def _called(call: Callable[..., Any], method: Callable[..., Any]) -> Callable[..., Any]:
    call.__name__ = method.__name__
    return call
