"""The event loop's ``create_connection`` and ``create_server``, bound to a stack.

asyncio is the specification: same parameters, same errors, its own transports. Only the
sockets come from the stack, and the addresses from its own resolver.

Source: CPython 3.11 to 3.13, documentation of asyncio's event loop.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeVar, cast

import aiohappyeyeballs

from aioioth._server import ServerGroup

if TYPE_CHECKING:
    import ssl as ssl_module
    from collections.abc import Callable

    from aioioth._names import AddressInfo
    from aioioth.stack import Stack

__all__ = ["create_connection", "create_server"]

_ProtocolT = TypeVar("_ProtocolT", bound=asyncio.BaseProtocol)


async def create_connection(  # noqa: PLR0913  (as the loop's)
    stack: Stack,
    protocol_factory: Callable[[], _ProtocolT],
    host: str | bytes | None = None,
    port: int | str | None = None,
    *,
    ssl: bool | ssl_module.SSLContext | None = None,
    family: int = 0,
    proto: int = 0,
    flags: int = 0,
    sock: socket.socket | None = None,
    local_addr: tuple[str, int | str] | None = None,
    server_hostname: str | None = None,
    ssl_handshake_timeout: float | None = None,
    ssl_shutdown_timeout: float | None = None,
    happy_eyeballs_delay: float | None = None,
    interleave: int | None = None,
    all_errors: bool = False,
) -> tuple[asyncio.Transport, _ProtocolT]:
    """Connect from ``stack``; see `asyncio.loop.create_connection`.

    Raises:
        OSError: As asyncio raises it.
        ClosedError: The stack is not open.
        WrongLoopError: The stack belongs to another event loop.
    """
    loop = stack.check_usable()
    _check_ssl_arguments(
        ssl, server_hostname, ssl_handshake_timeout, ssl_shutdown_timeout
    )
    if server_hostname is None and ssl:
        if not host:
            msg = "You must set server_hostname when using ssl without a host"
            raise ValueError(msg)
        server_hostname = host.decode() if isinstance(host, bytes) else host
    with ExitStack() as undo:
        if sock is None:
            if host is None and port is None:
                msg = "host and port was not specified and no sock specified"
                raise ValueError(msg)
            infos = await _addresses(stack, host, port, family, proto, flags)
            local = None
            if local_addr is not None:
                local = await _addresses(stack, *local_addr, family, proto, flags)
            sock = await _connect(
                stack,
                infos,
                local,
                happy_eyeballs_delay=happy_eyeballs_delay,
                interleave=interleave,
                all_errors=all_errors,
            )
            # Ours until the loop has it.
            undo.callback(sock.close)
        elif host is not None or port is not None:
            msg = "host/port and sock can not be specified at the same time"
            raise ValueError(msg)
        transport, protocol = await loop.create_connection(
            protocol_factory,
            sock=sock,
            ssl=ssl,
            server_hostname=server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        undo.pop_all()
    return transport, protocol


async def create_server(  # noqa: PLR0913  (as the loop's)
    stack: Stack,
    protocol_factory: Callable[[], asyncio.BaseProtocol],
    host: str | Sequence[str] | None = None,
    port: int | str | None = None,
    *,
    family: int = socket.AF_UNSPEC,
    flags: int = socket.AI_PASSIVE,
    sock: socket.socket | None = None,
    backlog: int = 100,
    ssl: ssl_module.SSLContext | bool | None = None,
    reuse_address: bool | None = None,
    reuse_port: bool | None = None,
    keep_alive: bool | None = None,
    ssl_handshake_timeout: float | None = None,
    ssl_shutdown_timeout: float | None = None,
    start_serving: bool = True,
) -> asyncio.Server:
    """Listen on ``stack``; see `asyncio.loop.create_server`.

    Returns:
        The loop's own server when there is one address to listen on, otherwise one that
        does the same for all of them.

    Raises:
        OSError: As asyncio raises it.
        ClosedError: The stack is not open.
        WrongLoopError: The stack belongs to another event loop.
    """
    loop = stack.check_usable()
    if isinstance(ssl, bool):
        msg = "ssl argument must be an SSLContext or None"
        raise TypeError(msg)
    _check_ssl_arguments(ssl, None, ssl_handshake_timeout, ssl_shutdown_timeout)
    with ExitStack() as undo:
        if sock is not None:
            if host is not None or port is not None:
                msg = "host/port and sock can not be specified at the same time"
                raise ValueError(msg)
            sockets = [sock]
        else:
            if host is None and port is None:
                msg = "Neither host/port nor sock were specified"
                raise ValueError(msg)
            options = {
                socket.SO_REUSEADDR: reuse_address is None or reuse_address,
                socket.SO_REUSEPORT: bool(reuse_port),
                socket.SO_KEEPALIVE: bool(keep_alive),
            }
            infos = await _listening_addresses(stack, host, port, family, flags)
            sockets = _bind_all(stack, infos, options)
            for bound in sockets:
                undo.callback(bound.close)
        servers = []
        for listening in sockets:
            server = await loop.create_server(
                protocol_factory,
                sock=listening,
                backlog=backlog,
                ssl=ssl,
                ssl_handshake_timeout=ssl_handshake_timeout,
                ssl_shutdown_timeout=ssl_shutdown_timeout,
                # All or none: none must accept before the last one is bound.
                start_serving=False,
            )
            undo.callback(server.close)
            servers.append(server)
        together: Any = servers[0] if len(servers) == 1 else ServerGroup(servers)
        if start_serving:
            await together.start_serving()
        undo.pop_all()
    return cast("asyncio.Server", together)  # uvloop's is one by its face, too


def _check_ssl_arguments(
    ssl: object,
    server_hostname: str | None,
    handshake_timeout: float | None,
    shutdown_timeout: float | None,
) -> None:
    if ssl:
        return
    for name, value in (
        ("server_hostname", server_hostname),
        ("ssl_handshake_timeout", handshake_timeout),
        ("ssl_shutdown_timeout", shutdown_timeout),
    ):
        if value is not None:
            msg = f"{name} is only meaningful with ssl"
            raise ValueError(msg)


async def _addresses(  # noqa: PLR0917  (as getaddrinfo)
    stack: Stack,
    host: str | bytes | None,
    port: int | str | None,
    family: int,
    proto: int,
    flags: int,
) -> list[AddressInfo]:
    infos = await stack.getaddrinfo(
        host, port, family=family, type=socket.SOCK_STREAM, proto=proto, flags=flags
    )
    if not infos:
        msg = "getaddrinfo() returned empty list"
        raise OSError(msg)
    return infos


class _Connector:
    """The running loop, as far as connecting a socket goes.

    Not the loop's own `sock_connect`: uvloop's asks the host's resolver even about
    literal addresses, and loses the scope of link-local ones (uvloop 0.23).
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.errors: list[OSError] = []

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._loop, name)

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:  # noqa: ANN401
        """Connect; errors are raised as asyncio's loop does, and remembered."""
        try:
            await self._connect(sock, address)
        except OSError as error:
            self.errors.append(error)
            raise

    async def _connect(self, sock: socket.socket, address: Any) -> None:  # noqa: ANN401
        try:
            sock.connect(address)
        except (BlockingIOError, InterruptedError):
            pass
        else:
            return
        done = self._loop.create_future()
        descriptor = sock.fileno()
        self._loop.add_writer(descriptor, _finish, done)
        try:
            await done
        finally:
            self._loop.remove_writer(descriptor)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, f"Connect call failed {address}")


def _finish(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


async def _connect(
    stack: Stack,
    infos: list[AddressInfo],
    local: list[AddressInfo] | None,
    *,
    all_errors: bool,
    **timing: Any,
) -> socket.socket:
    connector: Any = _Connector()
    try:
        return await aiohappyeyeballs.start_connection(
            infos,
            local_addr_infos=local,
            loop=connector,
            socket_factory=lambda info: stack.socket(*info[:3]),
            **timing,
        )
    except OSError as error:
        if not all_errors:
            raise
        message = "create_connection failed"
        raise ExceptionGroup(message, connector.errors or [error]) from None


async def _listening_addresses(
    stack: Stack,
    host: str | Sequence[str] | None,
    port: int | str | None,
    family: int,
    flags: int,
) -> list[AddressInfo]:
    hosts: Iterable[str | None]
    if host is None or host == "":
        hosts = [None]
    elif isinstance(host, str) or not isinstance(host, Iterable):
        hosts = [host]
    else:
        hosts = host
    found: dict[AddressInfo, None] = {}  # asyncio listens once on what is named twice
    for name in hosts:
        for info in await _addresses(stack, name, port, family, 0, flags):
            found[info] = None
    return list(found)


def _bind_all(
    stack: Stack, infos: list[AddressInfo], options: dict[int, bool]
) -> list[socket.socket]:
    with ExitStack() as undo:
        sockets = []
        for family, kind, proto, _, address in infos:
            try:
                sock = stack.socket(family, kind, proto)
            except OSError as error:
                # asyncio too goes on: the kernel may lack a family (bpo-30945).
                if error.errno != errno.EAFNOSUPPORT:
                    raise
                continue
            undo.callback(sock.close)
            for option, wanted in options.items():
                if wanted:
                    sock.setsockopt(socket.SOL_SOCKET, option, 1)
            if family == socket.AF_INET6:
                # One socket for each family, not one for both.
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                sock.bind(address)
            except OSError as error:
                reason = (error.strerror or os.strerror(error.errno or 0)).lower()
                msg = f"error while attempting to bind on address {address!r}: {reason}"
                raise OSError(error.errno, msg) from None
            sockets.append(sock)
        if not sockets:
            msg = f"could not bind on any address out of {[info[4] for info in infos]}"
            raise OSError(errno.EADDRNOTAVAIL, msg)
        undo.pop_all()
    return sockets
