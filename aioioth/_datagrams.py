"""The event loop's ``create_datagram_endpoint``, bound to a stack."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from typing_extensions import override

from aioioth._connecting import SocketAddress, addresses, connect_socket

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioioth.stack import Stack

_ProtocolT = TypeVar("_ProtocolT", bound=asyncio.BaseProtocol)

Address = tuple[str, int | str]
Ends = tuple[int, int, Any, Any]


async def create_datagram_endpoint(  # noqa: PLR0913  (as the loop's)
    stack: Stack,
    protocol_factory: Callable[[], _ProtocolT],
    local_addr: Address | None = None,
    remote_addr: Address | None = None,
    *,
    family: int = 0,
    proto: int = 0,
    flags: int = 0,
    reuse_port: bool | None = None,
    allow_broadcast: bool | None = None,
    sock: socket.socket | None = None,
) -> tuple[asyncio.DatagramTransport, _ProtocolT]:
    """Open a UDP socket of ``stack``; see `asyncio.loop.create_datagram_endpoint`.

    To join a multicast group, set ``IP_ADD_MEMBERSHIP`` on
    ``transport.get_extra_info("socket")``.

    Raises:
        OSError: As asyncio raises it.
        ClosedError: The stack is not open.
    """
    if sock is not None:
        modifiers = {
            "local_addr": local_addr,
            "remote_addr": remote_addr,
            "family": family,
            "proto": proto,
            "flags": flags,
            "reuse_port": reuse_port,
            "allow_broadcast": allow_broadcast,
        }
        if problems := ", ".join(f"{k}={v}" for k, v in modifiers.items() if v):
            msg = (
                f"socket modifier keyword arguments can not be used when sock is "
                f"specified. ({problems})"
            )
            raise ValueError(msg)
        return await _introduced(protocol_factory, sock, None, connected=False)
    options = {
        socket.SO_REUSEPORT: bool(reuse_port),
        socket.SO_BROADCAST: bool(allow_broadcast),
    }
    wanted: Any = {"family": family, "proto": proto, "flags": flags}
    candidates = await _candidates(stack, local_addr, remote_addr, wanted)
    # asyncio connects the socket, unless answers come from many (broadcast).
    connected = not allow_broadcast
    made, remote = await _first(stack, candidates, options, connected=connected)
    with ExitStack() as undo:
        undo.callback(made.close)  # ours until the loop has it
        endpoint = await _introduced(
            protocol_factory, made, remote, connected=connected
        )
        undo.pop_all()
    return endpoint


async def _introduced(
    protocol_factory: Callable[[], _ProtocolT],
    sock: socket.socket,
    remote: SocketAddress,
    *,
    connected: bool,
) -> tuple[asyncio.DatagramTransport, _ProtocolT]:
    """Give a socket to the loop.

    Cancellation:
        uvloop (0.23) would leave its transport open; it is aborted.
    """
    loop = asyncio.get_running_loop()
    # Called by the loop, not here: the loops check the socket first.
    introduction = _Introduction(protocol_factory, remote, connected=connected)
    with ExitStack() as undo:
        undo.callback(introduction.abandon)
        await loop.create_datagram_endpoint(introduction.begin, sock=sock)
        undo.pop_all()
    return introduction.transport, introduction.protocol


async def _candidates(
    stack: Stack,
    local_addr: Address | None,
    remote_addr: Address | None,
    wanted: dict[str, Any],
) -> list[Ends]:
    """Return family, protocol, own and remote address of each possible socket."""
    if not (local_addr or remote_addr):
        if wanted["family"] == 0:
            msg = "unexpected address family"
            raise ValueError(msg)
        return [(wanted["family"], wanted["proto"], None, None)]
    found: dict[tuple[int, int], list[Any]] = {}
    both: tuple[Any, Any] = local_addr, remote_addr  # as they come, checked here
    for end, address in enumerate(both):
        if address is None:
            continue
        if not (isinstance(address, tuple) and len(address) == 2):
            msg = "2-tuple is expected"
            raise TypeError(msg)
        for info in await addresses(stack, *address, kind=socket.SOCK_DGRAM, **wanted):
            found.setdefault((info[0], info[2]), [None, None])[end] = info[4]
    complete: list[Ends] = [
        (family, proto, own, remote)
        for (family, proto), (own, remote) in found.items()
        if not (local_addr and own is None) and not (remote_addr and remote is None)
    ]
    if not complete:
        msg = "can not get address information"
        raise ValueError(msg)
    return complete


async def _first(
    stack: Stack, candidates: list[Ends], options: dict[int, bool], *, connected: bool
) -> tuple[socket.socket, Any]:
    """Return the first socket that can be made, and its remote address or None."""
    errors = []
    for family, proto, own, remote in candidates:
        with ExitStack() as undo:
            try:
                sock = stack.socket(family, socket.SOCK_DGRAM, proto)
                undo.callback(sock.close)
                for option, chosen in options.items():
                    if chosen:
                        sock.setsockopt(socket.SOL_SOCKET, option, 1)
                if own is not None:
                    sock.bind(own)
                if remote is not None and connected:
                    await connect_socket(sock, remote)
            except OSError as error:
                errors.append(error)
                continue
            undo.pop_all()
            return sock, remote
    raise errors[0]


class _Introduction(asyncio.DatagramProtocol):
    """Makes a protocol acquainted with a transport that knows its remote address.

    The loops learn it only where they open the socket themselves.
    """

    def __init__(
        self,
        protocol_factory: Callable[[], Any],
        remote: SocketAddress,
        *,
        connected: bool,
    ) -> None:
        self._factory = protocol_factory
        self._remote, self._connected = remote, connected
        self._abandoned = False
        self.protocol: Any = None
        self.transport: Any = None

    def begin(self) -> Self:
        """Make the protocol; this stands in for it until there is a transport."""
        self.protocol = self._factory()
        return self

    def abandon(self) -> None:
        """Let the transport go, now or as soon as there is one."""
        self._abandoned = True
        if self.transport is not None:
            self.transport.abort()

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # asyncio's own is one in all but its base class (3.11).
        inner = cast("asyncio.DatagramTransport", transport)
        if self._abandoned:
            inner.abort()
            return
        self.transport = inner
        if self._remote is not None:
            self.transport = _ToRemote(inner, self._remote, connected=self._connected)
        inner.set_protocol(self.protocol)
        self.protocol.connection_made(self.transport)


class _ToRemote(asyncio.DatagramTransport):
    """A loop's own transport, sending to one address only."""

    def __init__(
        self,
        inner: asyncio.DatagramTransport,
        remote: SocketAddress,
        *,
        connected: bool,
    ) -> None:
        super().__init__()
        self._inner, self._remote = inner, remote
        self._to = None if connected else remote

    @override
    def sendto(self, data: Any, addr: Any = None) -> None:
        if addr not in (None, self._remote):
            msg = f"Invalid address: must be None or {self._remote}"
            raise ValueError(msg)
        self._inner.sendto(data, self._to)

    @override
    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._inner.get_extra_info(name, default)

    @override
    def is_closing(self) -> bool:
        return self._inner.is_closing()

    @override
    def close(self) -> None:
        self._inner.close()

    @override
    def abort(self) -> None:
        self._inner.abort()

    @override
    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._inner.set_protocol(protocol)

    @override
    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._inner.get_protocol()

    @override
    def __repr__(self) -> str:
        return f"<to {self._remote}: {self._inner!r}>"

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        # What asyncio's own transport has beyond its documentation.
        return getattr(self._inner, name)
