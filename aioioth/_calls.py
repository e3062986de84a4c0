"""asyncio's and anyio's calls as methods of a stack, each done elsewhere."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from socket import AddressFamily
from typing import IO, TYPE_CHECKING, Any, Literal, TypeVar, overload

from aioioth import _sendfile, default, endpoints, processes, streams
from aioioth._background import carried

if TYPE_CHECKING:
    import socket as socket_module
    import ssl
    from collections.abc import Callable, Sequence

    from anyio.abc import (
        ConnectedUDPSocket,
        IPAddressType,
        SocketStream,
        UDPSocket,
    )
    from anyio.streams.stapled import MultiListener
    from anyio.streams.tls import TLSStream
    from typing_extensions import Unpack

    from aioioth._anyio_options import (
        AnyIPAddressFamily,
        ConnectedUDPOptions,
        ListenerOptions,
        TLSOptions,
        UDPOptions,
    )
    from aioioth.names import AddressInfo, Hosts, Resolver
    from aioioth.stack import Stack

_ProtocolT = TypeVar("_ProtocolT", bound=asyncio.BaseProtocol)
_DatagramProtocolT = TypeVar("_DatagramProtocolT", bound=asyncio.DatagramProtocol)


class StackCalls:
    """The part of `aioioth.Stack` that opens sockets and starts programs.

    All of it works on any event loop and in any thread, also in a child made by
    `os.fork`.
    """

    _names: Resolver

    @abstractmethod
    def socket(
        self,
        family: int = ...,
        type: int = ...,  # noqa: A002  (as socket.socket)
        proto: int = ...,
    ) -> socket_module.socket:
        """Open a socket in the stack; see `aioioth.Stack.socket`."""

    @abstractmethod
    def check_open(self) -> Stack:
        """Return the stack itself; see `aioioth.Stack.check_open`."""

    # Names

    @property
    def resolver(self) -> Resolver:
        """What looks names up for the stack."""
        return self._names

    @property
    def hosts(self) -> Hosts:
        """The stack's own ``/etc/hosts``; may be changed at any time."""
        return self._names.hosts

    def resolv_conf(self) -> str:
        """Return the DNS servers and search domains as a file ``/etc/resolv.conf``.

        Those that were given come first, then what DHCPv6, router advertisements and
        DHCP told (see `aioioth.Stack.configure`). Programs that are started in the
        stack get it as it is then.
        """
        return self._names.resolv_conf()

    async def getaddrinfo(
        self,
        host: str | bytes | None,
        port: int | str | None,
        *,
        family: int = 0,
        type: int = 0,  # noqa: A002  (as the loop's getaddrinfo)
        proto: int = 0,
        flags: int = 0,
    ) -> list[AddressInfo]:
        """Return socket addresses, as the loop's `getaddrinfo` does.

        The host's resolver is never asked: literal addresses, ``localhost``, `hosts`,
        then the servers given as ``dns``; see `aioioth.names`.

        Raises:
            socket.gaierror: The name or service is unknown, or no server answers.
            ClosedError: The stack is not open.
        """
        self.check_open()
        return await self._names.getaddrinfo(
            host, port, family=family, type=type, proto=proto, flags=flags
        )

    async def getnameinfo(
        self, sockaddr: tuple[str, int] | tuple[str, int, int, int], flags: int = 0
    ) -> tuple[str, str]:
        """Return host and service of a socket address, as the loop's `getnameinfo`.

        Raises:
            socket.gaierror: There is no name, and ``NI_NAMEREQD`` asks for one.
            ClosedError: The stack is not open.
        """
        self.check_open()
        return await self._names.getnameinfo(sockaddr, flags)

    # As asyncio's streams and event loop

    async def open_connection(
        self,
        host: str | None = None,
        port: int | str | None = None,
        *,
        limit: int = streams.LIMIT,
        **kwds: Any,
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect from this stack; see `aioioth.open_connection`."""
        return await streams.open_connection(
            host, port, stack=self.check_open(), limit=limit, **kwds
        )

    async def start_server(
        self,
        client_connected_cb: Callable[
            [asyncio.StreamReader, asyncio.StreamWriter], Any
        ],
        host: str | Sequence[str] | None = None,
        port: int | str | None = None,
        *,
        limit: int = streams.LIMIT,
        **kwds: Any,
    ) -> asyncio.Server:
        """Serve on this stack; see `aioioth.start_server`."""
        return await streams.start_server(
            client_connected_cb,
            host,
            port,
            stack=self.check_open(),
            limit=limit,
            **kwds,
        )

    async def create_connection(
        self,
        protocol_factory: Callable[[], _ProtocolT],
        host: str | bytes | None = None,
        port: int | str | None = None,
        **kwds: Any,
    ) -> tuple[asyncio.Transport, _ProtocolT]:
        """Connect from this stack; see `asyncio.loop.create_connection`."""
        return await endpoints.create_connection(
            self.check_open(), protocol_factory, host, port, **kwds
        )

    async def create_server(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str | Sequence[str] | None = None,
        port: int | str | None = None,
        **kwds: Any,
    ) -> asyncio.Server:
        """Serve on this stack; see `asyncio.loop.create_server`."""
        return await endpoints.create_server(
            self.check_open(), protocol_factory, host, port, **kwds
        )

    async def create_datagram_endpoint(
        self,
        protocol_factory: Callable[[], _DatagramProtocolT],
        local_addr: tuple[str, int | str] | None = None,
        remote_addr: tuple[str, int | str] | None = None,
        **kwds: Any,
    ) -> tuple[asyncio.DatagramTransport, _DatagramProtocolT]:
        """Do `asyncio.loop.create_datagram_endpoint` on this stack."""
        return await endpoints.create_datagram_endpoint(
            self.check_open(), protocol_factory, local_addr, remote_addr, **kwds
        )

    async def sock_connect(self, sock: socket_module.socket, address: Any) -> None:  # noqa: ANN401
        """Connect a socket of this stack; see `asyncio.loop.sock_connect`.

        The loop's other ``sock_`` calls take a stack's sockets as they are; this one
        exists because it looks names up.
        """
        await endpoints.sock_connect(self.check_open(), sock, address)

    async def sendfile(
        self,
        transport: asyncio.WriteTransport,
        file: IO[bytes],
        offset: int = 0,
        count: int | None = None,
        *,
        fallback: bool = True,
    ) -> int:
        """Send a file over a connection; see `asyncio.loop.sendfile`.

        Also on uvloop, which has none of its own.
        """
        self.check_open()
        loop = asyncio.get_running_loop()
        try:
            return await loop.sendfile(
                transport, file, offset, count, fallback=fallback
            )
        except NotImplementedError:
            return await _sendfile.sendfile(
                transport, file, offset, count, fallback=fallback
            )

    # As anyio's, which takes its time to import: on first use

    @overload
    async def connect_tcp(
        self,
        remote_host: IPAddressType,
        remote_port: int,
        *,
        tls: bool = ...,
        ssl_context: ssl.SSLContext | None = ...,
        tls_hostname: str,
        **kwds: Unpack[TLSOptions],
    ) -> TLSStream: ...
    @overload
    async def connect_tcp(
        self,
        remote_host: IPAddressType,
        remote_port: int,
        *,
        tls: bool = ...,
        ssl_context: ssl.SSLContext,
        tls_hostname: str | None = ...,
        **kwds: Unpack[TLSOptions],
    ) -> TLSStream: ...
    @overload
    async def connect_tcp(
        self,
        remote_host: IPAddressType,
        remote_port: int,
        *,
        tls: Literal[True],
        ssl_context: ssl.SSLContext | None = ...,
        tls_hostname: str | None = ...,
        **kwds: Unpack[TLSOptions],
    ) -> TLSStream: ...
    @overload
    async def connect_tcp(
        self,
        remote_host: IPAddressType,
        remote_port: int,
        *,
        tls: Literal[False] = ...,
        ssl_context: None = ...,
        tls_hostname: None = ...,
        **kwds: Unpack[TLSOptions],
    ) -> SocketStream: ...
    async def connect_tcp(
        self, remote_host: IPAddressType, remote_port: int, **kwds: Any
    ) -> SocketStream | TLSStream:
        """Connect from this stack, as `anyio.connect_tcp`; see `aioioth.anyio`."""
        from aioioth import anyio

        stream: SocketStream | TLSStream = await anyio.connect_tcp(
            self.check_open(), remote_host, remote_port, **kwds
        )
        return stream

    async def create_tcp_listener(
        self, **kwds: Unpack[ListenerOptions]
    ) -> MultiListener[SocketStream]:
        """Listen on this stack, as `anyio.create_tcp_listener`; see `aioioth.anyio`."""
        from aioioth import anyio

        return await anyio.create_tcp_listener(self.check_open(), **kwds)

    async def create_udp_socket(
        self,
        family: AnyIPAddressFamily = AddressFamily.AF_UNSPEC,
        **kwds: Unpack[UDPOptions],
    ) -> UDPSocket:
        """Open a UDP socket, as `anyio.create_udp_socket`; see `aioioth.anyio`."""
        from aioioth import anyio

        return await anyio.create_udp_socket(self.check_open(), family, **kwds)

    async def create_connected_udp_socket(
        self,
        remote_host: IPAddressType,
        remote_port: int,
        **kwds: Unpack[ConnectedUDPOptions],
    ) -> ConnectedUDPSocket:
        """Open one, as `anyio.create_connected_udp_socket`; see `aioioth.anyio`."""
        from aioioth import anyio

        return await anyio.create_connected_udp_socket(
            self.check_open(), remote_host, remote_port, **kwds
        )

    # Programs

    async def create_subprocess_exec(
        self, program: processes.Argument, *args: processes.Argument, **kwds: Any
    ) -> asyncio.subprocess.Process:
        """Start a program in this stack, as `asyncio.create_subprocess_exec`."""
        return await processes.create_subprocess_exec(
            self.check_open(), program, *args, **kwds
        )

    async def create_subprocess_shell(
        self, cmd: str | bytes, *args: Any, **kwds: Any
    ) -> asyncio.subprocess.Process:
        """Run a shell command in this stack, as `asyncio.create_subprocess_shell`."""
        return await processes.create_subprocess_shell(
            self.check_open(), cmd, *args, **kwds
        )

    @carried
    async def run(self, commands: str) -> int:
        """Run programs in this stack, one after the other; see `aioioth.processes.run`.

        Args:
            commands: Absolute paths with arguments, quoted as for a shell but without
                one, separated by ``;``.

        Returns:
            The exit status of the last one that ran: 0, or the first failure's; the
            negated number of the signal that ended it.
        """
        return await processes.run(self.check_open(), commands)

    @carried
    async def wait_listening(
        self, host: str, port: int, timeout: float | None = None
    ) -> None:
        """Wait until a connection from this stack to ``host`` and ``port`` is accepted.

        Args:
            host: Name or address, as for `open_connection`.
            port: TCP port.
            timeout: Seconds; None waits for ever.

        Raises:
            TimeoutError: Nobody listened in time; the message has the last error.
        """
        await processes.wait_listening(self.check_open(), host, port, timeout)

    # The default stack

    def activate(
        self, *, patch: bool = False, guard: bool = False
    ) -> default.Activation:
        """Make this the default stack of the current context, in a ``with`` block.

        Args:
            patch: Also for plain `socket.socket` and the like.
            guard: Also raise where anything opens an internet socket outside of it.

        See `aioioth.default` for what that means.
        """
        return default.Activation(self.check_open(), patch=patch, guard=guard)
